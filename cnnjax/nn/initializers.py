"""Initial parameters by name: Keras's and torch's defaults, and the field's standard distributions.

JAX compiles a program for every shape that it fills, and a network has a hundred shapes. Here random numbers are drawn
in a few sizes and cut: with `jax_threefry_partitionable`, JAX's default, a number depends only on the key and its
position. The result equals that of `jax.nn.initializers`, in a tenth of the time.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

Shape = tuple[int, ...]
Initializer = Callable[[jax.Array, Shape], jax.Array]  # of a key and a shape, at JAX's default precision

PADDED_UP_TO = 2**20  # sizes below are drawn as the next power of two

# With a standard deviation of 1, except "uniform", which is U(-1, 1).
DISTRIBUTIONS: dict[str, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "truncated normal": partial(jax.random.truncated_normal, lower=-2, upper=2),  # its deviation is TRUNCATED
    "uniform": partial(jax.random.uniform, minval=-1),
}
TRUNCATED = 0.87962566103423978


class Scheme(NamedTuple):
    """How a layer fills its kernel, and its bias given the number of inputs that each output sums over."""

    kernel: Initializer
    bias: Callable[[int], Initializer]


def next_key(stream: nnx.RngStream) -> jax.Array:
    """Return `stream()`, in time that does not grow with what was traced before: see `BatchNorm`."""
    key = jax.random.fold_in(stream.key[...], stream.count[...])
    stream.count.set_value(stream.count[...] + 1)
    return key


def filled(value: float, shape: Shape) -> jax.Array:
    """Return an array of one value."""
    return jnp.asarray(np.full(shape, value, jnp.result_type(float)))


def zeros(key: jax.Array, shape: Shape) -> jax.Array:
    """The initialiser that gives zeros."""
    return filled(0, shape)


def normal(deviation: float) -> Initializer:
    """Return the initialiser N(0, deviation^2)."""
    return lambda key, shape: _scaled(key, shape, "normal", _number(deviation))


def variance_scaling(scale: float, mode: str, distribution: str) -> Initializer:
    """Return the initialiser of mean 0 and variance `scale / n`, as `jax.nn.initializers.variance_scaling`.

    Args:
        scale: of the variance.
        mode: what n is: "fan_in", "fan_out" or "fan_avg", their mean. For a kernel
            (..., in, out) they are the number of taps times `in`, and times `out`.
        distribution: "normal", "truncated normal" (at two deviations) or "uniform".
    """

    def initialize(key: jax.Array, shape: Shape) -> jax.Array:
        taps = math.prod(shape[:-2])
        fans = {"fan_in": taps * shape[-2], "fan_out": taps * shape[-1], "fan_avg": taps * sum(shape[-2:]) / 2}
        variance = _number(scale / fans[mode])
        if distribution == "uniform":
            return _scaled(key, shape, distribution, np.sqrt(_number(3) * variance))
        deviation = np.sqrt(variance)
        return _scaled(key, shape, distribution, deviation / _number(TRUNCATED if "truncated" in distribution else 1))

    return initialize


def _scaled(key: jax.Array, shape: Shape, distribution: str, factor: np.floating[Any]) -> jax.Array:
    size = math.prod(shape)
    padded = size if size > PADDED_UP_TO else 1 << max(size - 1, 0).bit_length()
    drawn = _draw(key, distribution, padded)
    if isinstance(drawn, jax.core.Tracer):
        return drawn[:size].reshape(shape) * factor
    return jnp.asarray(np.asarray(drawn)[:size].reshape(shape) * factor)


@partial(jax.jit, static_argnums=(1, 2))
def _draw(key: jax.Array, distribution: str, size: int) -> jax.Array:
    return DISTRIBUTIONS[distribution](key, shape=(size,))


def _number(value: float) -> np.floating[Any]:
    number: np.floating[Any] = jnp.result_type(float).type(value)
    return number


def _zero_bias(fan_in: int) -> Initializer:
    return zeros


def _uniform_bias(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    return lambda key, shape: _scaled(key, shape, "uniform", _number(1 / math.sqrt(fan_in)))


SCHEMES: dict[str, Scheme] = {
    # keras.layers.Conv2D and Dense: Glorot & Bengio (2010), zero bias.
    "keras": Scheme(variance_scaling(1.0, "fan_avg", "uniform"), _zero_bias),
    # torch.nn.Conv2d and Linear: kaiming_uniform_(a=sqrt(5)), which is U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both.
    "torch": Scheme(variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias),
    "torch_zero_bias": Scheme(variance_scaling(1 / 3, "fan_in", "uniform"), _zero_bias),
    "glorot_uniform": Scheme(variance_scaling(1.0, "fan_avg", "uniform"), _zero_bias),
    "glorot_normal": Scheme(variance_scaling(1.0, "fan_avg", "truncated normal"), _zero_bias),
    "he_uniform": Scheme(variance_scaling(2.0, "fan_in", "uniform"), _zero_bias),
    "he_normal": Scheme(variance_scaling(2.0, "fan_in", "truncated normal"), _zero_bias),
    # He et al. (2015) for the backward pass, as torchvision's residual networks start.
    "he_normal_fan_out": Scheme(variance_scaling(2.0, "fan_out", "normal"), _zero_bias),
    # torch's kaiming_normal_; unlike "he_normal" not truncated.
    "he_normal_fan_in": Scheme(variance_scaling(2.0, "fan_in", "normal"), _zero_bias),
    "lecun_uniform": Scheme(variance_scaling(1.0, "fan_in", "uniform"), _zero_bias),
    "lecun_normal": Scheme(variance_scaling(1.0, "fan_in", "truncated normal"), _zero_bias),
    "lecun_uniform_fan_out": Scheme(variance_scaling(1.0, "fan_out", "uniform"), _zero_bias),
    # U(-1/sqrt(fan_out), 1/sqrt(fan_out)), as EfficientNet's classifier starts.
    "uniform_fan_out": Scheme(variance_scaling(1 / 3, "fan_out", "uniform"), _zero_bias),
    "normal_0.01": Scheme(normal(0.01), _zero_bias),
    # torchvision's inception networks: kernels N(0, deviation^2), biases as torch's.
    "normal_0.1_torch_bias": Scheme(normal(0.1), _uniform_bias),
    "normal_0.01_torch_bias": Scheme(normal(0.01), _uniform_bias),
    "normal_0.001_torch_bias": Scheme(normal(0.001), _uniform_bias),
    "normal_0.02": Scheme(normal(0.02), _zero_bias),
    "zeros": Scheme(zeros, _zero_bias),
}


def scheme(name: str) -> Scheme:
    """Return the named scheme.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SCHEMES:
        raise ValueError(f"init must be one of {tuple(SCHEMES)}, got {name!r}")
    return SCHEMES[name]
