"""A convolution's windows: the sizes that `ops` really gives, and how often each pixel is used."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops


class Case(NamedTuple):
    """A convolution of a square image of one channel with a square kernel."""

    size: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def formula(self) -> float:
        """Output size as the lectures' formula has it, which may be no integer."""
        return (self.size + 2 * self.padding - self.kernel) / self.stride + 1


def output_size(case: Case) -> int:
    """Return the output size that `ops.conv2d` gives, without computing the output."""
    y = jax.eval_shape(
        lambda x, k: ops.conv2d(x, k, stride=case.stride, padding=case.padding),
        jax.ShapeDtypeStruct((1, case.size, case.size, 1), jnp.float32),
        jax.ShapeDtypeStruct((case.kernel, case.kernel, 1, 1), jnp.float32),
    )
    return y.shape[1]


def uses(cases: Sequence[Case]) -> list[np.ndarray]:
    """Return for every case how many windows use each pixel, (size, size); all are one compiled program."""

    def total(x: jax.Array, case: Case) -> jax.Array:
        return ops.conv2d(x, jnp.ones((case.kernel, case.kernel, 1, 1)), stride=case.stride, padding=case.padding).sum()

    images = [jnp.zeros((1, case.size, case.size, 1)) for case in cases]
    counts = jax.jit(lambda images: [jax.grad(total)(x, case) for x, case in zip(images, cases, strict=True)])(images)
    return [np.asarray(count)[0, ..., 0].astype(int) for count in counts]
