"""Image files become the bytes that Pillow shows, turned as their EXIF orientation says; deep ones only when asked."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, ImageOps

from cnnjax import data
from cnnjax.data.bundled import photograph
from cnnjax.data.decode import decode, formats
from cnnjax.errors import UserError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)
DEEP = (RNG.integers(0, 4096, (6, 8)) * 16).astype(np.uint16)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def smooth(height, width):
    """An image without symmetry that JPEG keeps."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.uint8(255 * np.stack([y, x, y * x], -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_images_are_turned_as_a_viewer_turns_them(kind, orientation, tmp_path):
    if kind not in (*formats(), "MPO"):
        pytest.skip(f"this Pillow reads no {kind}")
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = saved(Image.fromarray(smooth(20, 32)), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))
    assert expected.shape == ((32, 20, 3) if orientation in range(5, 9) else (20, 32, 3))
    np.testing.assert_array_equal(decode(encoded, expected.shape), expected)
    (tmp_path / "x").write_bytes(encoded)
    np.testing.assert_array_equal(photograph(str(tmp_path / "x")), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_photograph_is_turned_before_it_is_scaled_and_cut(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = saved(Image.fromarray(smooth(200, 400)), "JPEG", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    expected = np.asarray(ImageOps.fit(upright, (20, 40), Image.Resampling.BILINEAR), np.int32)
    assert np.abs(decode(encoded, (40, 20, 3)) - expected).max() < 12  # JPEGs are decoded at an eighth of their size


def test_a_photograph_that_is_turned_is_not_decoded_at_fewer_pixels_than_it_is_asked_for():
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = RNG.integers(0, 256, (200, 400), dtype=np.uint8)
    encoded = saved(Image.fromarray(noise), "JPEG", exif=exif, quality=100)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    np.testing.assert_array_equal(decode(encoded, (24, 200, 1))[..., 0], upright[188:212])


def test_damaged_exif_data_turn_nothing():
    encoded = bytearray(saved(Image.fromarray(smooth(20, 32)), "JPEG", exif=b"Exif\0\0" + bytes(range(60))))
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(decode(bytes(encoded), (20, 32, 3)), expected)


def before_white(pixels):
    """Each pixel as its opacity blends it with white."""
    opacity = pixels[..., 3:] / 255
    return Image.fromarray(np.rint(opacity * pixels[..., :3] + (1 - opacity) * 255).astype(np.uint8))


def test_the_colours_of_transparent_pixels_do_not_show():
    pixels = np.concatenate([COLOURS, RNG.integers(0, 256, (16, 24, 1), dtype=np.uint8)], -1)
    encoded = saved(Image.fromarray(pixels), "PNG")
    np.testing.assert_allclose(decode(encoded, (16, 24, 3)), before_white(pixels.astype(float)), atol=1)
    np.testing.assert_array_equal(decode(encoded, (16, 24, 4)), pixels)
    pixels[..., 3] = 0
    np.testing.assert_array_equal(decode(saved(Image.fromarray(pixels), "PNG"), (16, 24, 3)), 255)


MODES = {
    "1": "PNG", "L": "PNG", "LA": "PNG", "P": "PNG", "RGB": "PNG", "RGBA": "PNG", "CMYK": "TIFF", "YCbCr": "TIFF",
    "LAB": "TIFF",
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", [*MODES, "CMYK JPEG", "P with transparent colours", "P with one transparent colour"])
def test_images_of_every_mode_are_as_pillow_converts_them(mode, channels):
    source, options = Image.fromarray(COLOURS), {}
    if mode == "CMYK JPEG":
        encoded = saved(source.convert("CMYK"), "JPEG")
    else:
        if " with " in mode:
            options = {"transparency": bytes(range(256)) if "colours" in mode else 3}
        image = Image.fromarray(COLOURS, "LAB") if mode == "LAB" else source.convert(mode.partition(" ")[0])
        encoded = saved(image, MODES[mode.partition(" ")[0]], **options)
    opened = Image.open(io.BytesIO(encoded))
    if opened.has_transparency_data and channels != 4:
        opened = before_white(np.asarray(opened.convert("RGBA"), float))
    elif options:
        opened = opened.convert("RGBA")
    if mode == "LAB":
        opened = opened.convert("RGB")
    expected = np.asarray(opened.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])).reshape(16, 24, channels)
    np.testing.assert_allclose(decode(encoded, (16, 24, channels)), expected, atol=1 if options else 0)


def deep_file(kind):
    """A grey image of 16 bits in a file format, and its values."""
    if kind == "PGM":
        return b"P5 8 6 65535\n" + DEEP.astype(">u2").tobytes()
    if kind == "big-endian TIFF":
        return saved(Image.frombytes("I;16B", (8, 6), DEEP.astype(">u2").tobytes()), "TIFF")
    return saved(Image.fromarray(DEEP), kind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF", "PGM"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits_are_scaled_to_their_range_when_that_is_asked(kind, channels):
    encoded, shape = deep_file(kind), (6, 8, channels)
    with pytest.raises(ValueError, match="more than 8 bits for each channel: scale it with `deep='type'`"):
        decode(encoded, shape)
    low, high = int(DEEP.min()), int(DEEP.max())
    for deep, least, greatest in (("type", 0, 65535), ("image", low, high)):
        grey = np.rint((DEEP.astype(float) - least) / (greatest - least) * 255)
        ours = decode(encoded, shape, deep)
        np.testing.assert_array_equal(ours[..., : min(channels, 3)], np.repeat(grey[..., None], min(channels, 3), -1))


def test_floats_and_32_bits_are_scaled_to_their_range():
    floats = RNG.random((6, 8), np.float32)
    encoded = saved(Image.fromarray(floats), "TIFF")
    np.testing.assert_array_equal(decode(encoded, (6, 8, 1), "type")[..., 0], np.rint(floats * 255))
    wide = RNG.integers(-(10**9), 10**9, (6, 8)).astype(np.int32)
    encoded = saved(Image.fromarray(wide), "TIFF")
    with pytest.raises(ValueError, match=r"its values are from -.*e\+08 to .*, where `deep='type'` takes 0 to 65535"):
        decode(encoded, (6, 8, 1), "type")
    share = (wide - wide.min().astype(float)) / (float(wide.max()) - wide.min())
    np.testing.assert_array_equal(decode(encoded, (6, 8, 1), "image")[..., 0], np.rint(share * 255))
    flat = saved(Image.fromarray(np.full((6, 8), 700, np.uint16)), "PNG")
    assert not decode(flat, (6, 8, 1), "image").any()
    with pytest.raises(ValueError, match="no finite numbers"):
        decode(saved(Image.fromarray(np.full((6, 8), np.nan, np.float32)), "TIFF"), (6, 8, 1), "image")


def test_a_deep_image_is_turned_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = saved(Image.fromarray(DEEP), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(encoded, (8, 6, 1), "type")[..., 0], np.rint(np.rot90(DEEP, -1) / 257.0))


@pytest.mark.parametrize("stream", ["always", "never"])
def test_the_option_reaches_the_images_of_a_folder(tmp_path, monkeypatch, stream):
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    for split in ("train", "test"):
        (tmp_path / "tree" / split / "a").mkdir(parents=True)
        (tmp_path / "tree" / split / "a" / "x.png").write_bytes(deep_file("PNG"))
    for deep, least, greatest in (("type", 0, 65535), ("image", int(DEEP.min()), int(DEEP.max()))):
        image = data.load(str(tmp_path / "tree"), image_size=6, stream=stream, deep=deep).train.first(1).images[0]
        grey = np.rint((DEEP[:, 1:7].astype(float) - least) / (greatest - least) * 255)
        np.testing.assert_array_equal(image[..., 0], grey)
    with pytest.raises(UserError, match=r"x.png is no image that can be read \(it has more than 8 bits .*`deep="):
        data.load(str(tmp_path / "tree"), image_size=6, stream=stream).train.first(1)


@pytest.mark.parametrize("stream", ["always", "never"])
def test_images_of_tfds_are_turned_too(tfds_dir, monkeypatch, stream):
    """The prepared set's own records, with JPEGs from a camera held on its side in their place."""
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = saved(Image.fromarray(smooth(8, 8)), "JPEG", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    decoded = tfds.core.DatasetBuilder.as_data_source

    def as_data_source(builder, split, decoders=None, **options):
        records = decoded(builder, split, decoders=decoders, **options)
        if decoders is None:
            return records
        return Records([{**record, "image": encoded} for record in records])

    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", as_data_source)
    images = data.load("tiny_squares", stream=stream).train.first(2).images
    assert images.shape[1:] == expected.shape
    np.testing.assert_array_equal(images[0], expected)


class Records(list):
    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_decoded_at_the_same_fraction_of_its_size_however_it_was_held(orientation):
    """A JPEG four times as large as needed: libjpeg halves it twice, and nothing is left to scale."""
    pixels, exif = Image.fromarray(smooth(64, 256)), Image.Exif()
    plain = np.asarray(Image.fromarray(decode(saved(pixels, "JPEG", quality=95), (16, 64, 3))))
    exif[0x0112] = orientation
    turned = Image.fromarray(plain)
    turned.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned))
    held = decode(saved(pixels, "JPEG", quality=95, exif=exif), expected.shape)
    np.testing.assert_array_equal(held, expected)
