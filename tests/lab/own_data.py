"""Folders of images as a person has them, of classes or with masks, and a network in NumPy: for tests of own data."""

import numpy as np
from PIL import Image

CLASSES = ("blue", "green", "red")
SIZE = 16  # that images are trained at
MISLABELLED = {"green": 2}  # red images among the test images of another class


def make_folder(root, per_split=(("train", 30), ("test", 10))):
    """Noisy images of one colour each, 40 pixels high and 36 wide, with a border that a crop to squares removes."""
    rng = np.random.default_rng(0)
    for split, count in per_split:
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                wrong = split == "test" and number < MISLABELLED.get(name, 0)
                pixels = rng.integers(0, 140, (40, 36, 3))
                pixels[..., 0 if wrong else 2 - label] += 60
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    return root


def scene(number, height=24, width=32):
    """Noisy grass with a reddish car, and its mask; the last row has no class."""
    rng = np.random.default_rng(number)
    mask = np.zeros((height, width), np.uint8)
    y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
    mask[y : y + 8, x : x + 12] = 1
    pixels = rng.integers(0, 120, (height, width, 3))
    pixels[..., 1] += 60 * (mask == 0)
    pixels[..., 0] += 90 * (mask == 1)
    mask[-1] = 255
    return pixels.astype(np.uint8), mask


def make_scenes(root, per_split):
    """Scenes with these numbers, by split, in the folders `images` and `masks`."""
    for split, numbers in per_split.items():
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in numbers:
            for part, array in zip(("images", "masks"), scene(number), strict=True):
                Image.fromarray(array).save(root / split / part / f"{number}.png")
    return root


def pixels_of(path, size=SIZE):
    """An image as Pillow alone makes it: scaled until it covers the size, and cropped to its middle; in [0, 1].

    Without a size: its bytes.
    """
    with Image.open(path) as file:
        image = file.convert("RGB")
    if size is None:
        return np.asarray(image)
    scale = max(size / image.width, size / image.height)
    wide, tall = round(image.width * scale), round(image.height * scale)
    left, top = (wide - size) // 2, (tall - size) // 2
    image = image.resize((wide, tall), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    return np.asarray(image, np.float64) / 255


def logits_of(arrays, images):
    """The lecture's CNN in NumPy in float64: three valid convolutions, the first one pooled, and two dense layers."""
    x = np.asarray(images, np.float64)
    for name in ("conv1", "conv2", "conv3"):
        kernel = arrays[f"{name}.kernel"].astype(np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (1, 2))
        x = np.maximum(np.einsum("nhwcab,abco->nhwo", windows, kernel, optimize=True) + arrays[f"{name}.bias"], 0)
        if name == "conv1":
            count, height, width, channels = x.shape
            x = x.reshape(count, height // 2, 2, width // 2, 2, channels).max((2, 4))
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ arrays["dense1.kernel"].astype(np.float64) + arrays["dense1.bias"], 0)
    return x @ arrays["dense2.kernel"].astype(np.float64) + arrays["dense2.bias"]


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
