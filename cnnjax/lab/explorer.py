"""The data of the site's explorer: small images, kernels by name, and examples of settings."""

from typing import Any

from sklearn.datasets import load_digits

from cnnjax import data
from cnnjax.lab.worked import KERNELS as KERNELS_OF_S1

# Claim B6: the image and the kernel of S3.
LECTURE_IMAGE = [[3, 3, 2, 1, 0], [0, 0, 1, 3, 1], [3, 1, 2, 2, 3], [2, 0, 0, 2, 2], [2, 0, 0, 0, 1]]
LECTURE_KERNEL = [[0, 1, 2], [2, 2, 0], [0, 1, 2]]

KERNELS: dict[str, list[list[int]] | str] = {  # a string names a kernel that the page makes at any size
    "lecture S3": LECTURE_KERNEL,
    "ones": "ones",
    "mean": "mean",
    "identity": "identity",
    **{name: KERNELS_OF_S1[name].astype(int).tolist() for name in ("vertical", "horizontal", "Sobel", "Scharr")},
    "all edges": [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
}


def explorer_data() -> dict[str, Any]:
    """Return images (rows of numbers), kernels and examples by name, for the page's script."""
    digits = load_digits().images.astype(int)
    return {
        "images": {
            "lecture S3": LECTURE_IMAGE,
            "pooling, lecture S1": [[1, 3, 6, 2], [9, 5, 6, 5], [9, 1, 1, 2], [0, 2, 8, 2]],  # claim D1
            "step": [[10] * 4 + [0] * 4] * 8,
            "gradient": [[row + column for column in range(12)] for row in range(12)],
            "checkerboard": [[9 * ((row + column) % 2) for column in range(8)] for row in range(8)],
            "one pixel": [[int(row == column == 3) for column in range(7)] for row in range(7)],
            "digit zero": digits[0].tolist(),
            "digit three": digits[3].tolist(),
            "flower": data.photograph("flower", 14).mean(-1).round().astype(int).tolist(),
        },
        "kernels": KERNELS,
        "examples": {
            "Convolution": _example(),
            "Half padding": _example(padding=1),
            "Full padding": _example(padding=2),
            "Stride and padding": _example(image="gradient", size=6, stride=2, padding=1),
            "Dilation": _example(image="digit three", size=8, dilation=2),
            "Edges of a flower": _example(image="flower", size=14, preset="Sobel", padding=1),
            "Max pooling": _example(operation="pooling", image="pooling, lecture S1", size=4, window=2, stride=2),
            "Average pooling": _example(
                operation="pooling", pool="average", image="flower", size=14, window=2, stride=2
            ),
            "Transposed": _example(operation="transposed", size=2, stride=2, preset="ones"),
        },
    }


def _example(**changes: Any) -> dict[str, Any]:
    plain = {"operation": "convolution", "pool": "max", "image": "lecture S3", "size": 5, "window": 3, "stride": 1}
    plain |= {"padding": 0, "dilation": 1, "extra": 0, "preset": "lecture S3"}
    if changes.get("window", 3) != 3:
        plain["preset"] = "ones"
    return plain | changes
