"""What is published of the networks that `cnnjax.models` has: parameters, multiply-adds and accuracy on ImageNet."""

import csv
from pathlib import Path
from typing import NamedTuple

PATH = Path(__file__).with_suffix(".csv")


class Published(NamedTuple):
    """A network's published numbers; None where there are none.

    Attributes:
        name: in `models.list_models()`.
        size: height and width of its images, in pixels.
        params: parameters for 1,000 classes.
        gmacs: billions of multiply-adds for an image.
        top1: share of ImageNet's validation images whose first guess is right, in percent.
        source: where the numbers stand.
    """

    name: str
    size: int
    params: int | None
    gmacs: float | None
    top1: float
    source: str

    @property
    def tolerance(self) -> float:
        """How far multiply-adds may be apart, relatively: half a unit of the last published digit, at least 1 %."""
        return max(0.01, 0.0005 / self.gmacs if self.gmacs else 0)


def read() -> dict[str, Published]:
    """Return all of them by name."""
    with PATH.open(newline="") as file:
        rows = [
            Published(
                row["name"],
                int(row["size"]),
                int(row["params"]) if row["params"] else None,
                float(row["gmacs"]) if row["gmacs"] else None,
                float(row["top1"]),
                row["source"],
            )
            for row in csv.DictReader(file)
        ]
    return {row.name: row for row in rows}
