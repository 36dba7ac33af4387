"""Folders of images as a person has them, of classes, with masks or with boxes, and a network in NumPy."""

import json

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


OBJECTS = ("car", "boat")


def photograph(number, height=24, width=32):
    """Noise with a red or blue rectangle, its class and its box; a seventh of the images have none."""
    rng = np.random.default_rng(number)
    pixels, label = rng.integers(0, 60, (height, width, 3)), number % 2
    if number % 7 == 6:
        return pixels.astype(np.uint8), None, None
    tall, wide = rng.integers(height // 3, height * 2 // 3), rng.integers(width // 3, width * 2 // 3)
    y, x = rng.integers(0, height - tall), rng.integers(0, width - wide)
    pixels[y : y + tall, x : x + wide, 2 * label] += 180
    return pixels.astype(np.uint8), label, (int(x), int(y), int(x + wide), int(y + tall))


def make_objects(root, per_split, name="instances.json"):
    """Photographs with these numbers, by split, with COCO's JSON; each has a small second object of the other class."""
    for split, numbers in per_split.items():
        (root / split).mkdir(parents=True)
        notes = []
        for number in numbers:
            pixels, label, box = photograph(number)
            Image.fromarray(pixels).save(root / split / f"{number:02}.png")
            if box is not None:
                x0, y0, x1, y1 = box
                small, large = [0, 0, 3, 3], [x0, y0, x1 - x0, y1 - y0]
                for category, bbox in ((2 - label, small), (1 + label, large)):
                    note = {"id": len(notes), "image_id": number, "category_id": category, "bbox": bbox}
                    notes.append(note)
        content = {
            "images": [{"id": k, "file_name": f"{k:02}.png", "width": 32, "height": 24} for k in numbers],
            "annotations": notes,
            "categories": [{"id": 1, "name": OBJECTS[0]}, {"id": 2, "name": OBJECTS[1]}],
        }
        (root / split / name).write_text(json.dumps(content))
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
