"""Initial parameters by name: Keras's and torch's defaults, and the field's standard distributions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.nn import initializers
from jax.nn.initializers import Initializer


class Scheme(NamedTuple):
    """How a layer fills its kernel, and its bias given the number of inputs that each output sums over."""

    kernel: Initializer
    bias: Callable[[int], Initializer]


def _zero_bias(fan_in: int) -> Initializer:
    return initializers.zeros


def _uniform_bias(fan_in: int) -> Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1 / math.sqrt(fan_in)

    def initialize(key, shape, dtype=None, out_sharding=None):  # type: ignore[no-untyped-def]
        return jax.random.uniform(key, shape, dtype or float, -bound, bound)

    return initialize


SCHEMES: dict[str, Scheme] = {
    # keras.layers.Conv2D and Dense: Glorot & Bengio (2010), zero bias.
    "keras": Scheme(initializers.glorot_uniform(), _zero_bias),
    # torch.nn.Conv2d and Linear: kaiming_uniform_(a=sqrt(5)), which is U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both.
    "torch": Scheme(initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias),
    "torch_zero_bias": Scheme(initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _zero_bias),
    "glorot_uniform": Scheme(initializers.glorot_uniform(), _zero_bias),
    "glorot_normal": Scheme(initializers.glorot_normal(), _zero_bias),
    "he_uniform": Scheme(initializers.he_uniform(), _zero_bias),
    "he_normal": Scheme(initializers.he_normal(), _zero_bias),
    # He et al. (2015) for the backward pass, as torchvision's residual networks start.
    "he_normal_fan_out": Scheme(initializers.variance_scaling(2.0, "fan_out", "normal"), _zero_bias),
    # torch's kaiming_normal_; unlike "he_normal" not truncated.
    "he_normal_fan_in": Scheme(initializers.variance_scaling(2.0, "fan_in", "normal"), _zero_bias),
    "lecun_uniform": Scheme(initializers.lecun_uniform(), _zero_bias),
    "lecun_normal": Scheme(initializers.lecun_normal(), _zero_bias),
    "lecun_uniform_fan_out": Scheme(initializers.variance_scaling(1.0, "fan_out", "uniform"), _zero_bias),
    # U(-1/sqrt(fan_out), 1/sqrt(fan_out)), as EfficientNet's classifier starts.
    "uniform_fan_out": Scheme(initializers.variance_scaling(1 / 3, "fan_out", "uniform"), _zero_bias),
    "normal_0.01": Scheme(initializers.normal(0.01), _zero_bias),
    # torchvision's inception networks: kernels N(0, deviation^2), biases as torch's.
    "normal_0.1_torch_bias": Scheme(initializers.normal(0.1), _uniform_bias),
    "normal_0.01_torch_bias": Scheme(initializers.normal(0.01), _uniform_bias),
    "normal_0.001_torch_bias": Scheme(initializers.normal(0.001), _uniform_bias),
    "normal_0.02": Scheme(initializers.normal(0.02), _zero_bias),
    "zeros": Scheme(initializers.zeros, _zero_bias),
}


def scheme(name: str) -> Scheme:
    """Return the named scheme.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SCHEMES:
        raise ValueError(f"init must be one of {tuple(SCHEMES)}, got {name!r}")
    return SCHEMES[name]
