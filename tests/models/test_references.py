"""Networks that no library has compute what their papers draw, written again in plain `lax`: logits and gradients.

In double precision, with every parameter random, and few channels where a network takes them. Dropout takes a mask that
depends on its rate and the shape alone, so that the reference can take the same one.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cnnjax import models
from cnnjax.models import all_cnn, resnet_cifar, vgg_attention, zfnet
from cnnjax.nn import Conv, Linear, path_name
from tests.models.tracing import eval_shape
from tests.ops.operations import computed

# ---------------------------------------------------------------- layers in plain lax


def conv(x, kernel, stride=1, padding=0):
    sides = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def relu(x):
    return jnp.where(x > 0, x, 0)


def max_pool(x, window, stride, ceil=False):
    after = [max((-(-(size - window) // stride)) * stride + window - size, 0) if ceil else 0 for size in x.shape[1:3]]
    sides = ((0, 0), (0, after[0]), (0, after[1]), (0, 0))
    return lax.reduce_window(x, -np.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), sides)


def mask(shape, rate):
    return np.random.default_rng(int(1000 * rate)).binomial(1, 1 - rate, shape) / (1 - rate)


class Reference:
    """A network's parameters by name, and its layers in training: with batch statistics and dropout."""

    def __init__(self, arrays):
        self.arrays = arrays

    def conv(self, name, x, stride=1, padding=0):
        return conv(x, self.arrays[f"{name}.kernel"], stride, padding) + self.arrays.get(f"{name}.bias", 0)

    def dense(self, name, x):
        return x.reshape(len(x), -1) @ self.arrays[f"{name}.kernel"] + self.arrays[f"{name}.bias"]

    def norm(self, name, x, eps=1e-5):
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        var = ((x - mean) ** 2).mean(axes)
        return (x - mean) / jnp.sqrt(var + eps) * self.arrays[f"{name}.scale"] + self.arrays[f"{name}.bias"]

    def drop(self, x, rate):
        return x * mask(x.shape, rate) if rate else x


# ---------------------------------------------------------------- the networks


def lecture_fcn(net, x):
    x = x.reshape(len(x), -1)
    for number in range(3):
        x = relu(net.dense(f"dense.{number}", x))
    return net.dense("dense.3", x)


def lecture_cnn(net, x):
    x = max_pool(relu(net.conv("conv1", x)), 2, 2)
    x = relu(net.conv("conv3", relu(net.conv("conv2", x))))
    return net.dense("dense2", relu(net.dense("dense1", x)))


def zf_net(net, x):
    def contrast(x):  # Krizhevsky et al. (2012), section 3.3: of five neighbouring maps
        padded = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2)))
        squares = sum(padded[..., shift : shift + x.shape[3]] ** 2 for shift in range(5))
        return x / (2 + 1e-4 * squares) ** 0.75

    x = contrast(max_pool(relu(net.conv("features.0", x, 2, 1)), 3, 2, ceil=True))
    x = contrast(max_pool(relu(net.conv("features.4", x, 2)), 3, 2, ceil=True))
    for number in (8, 10, 12):
        x = relu(net.conv(f"features.{number}", x, 1, 1))
    x = max_pool(x, 3, 2, ceil=True)
    x = x.repeat(6 // x.shape[1], 1).repeat(6 // x.shape[2], 2)  # 6x6 bins of fewer pixels
    x = net.drop(relu(net.dense("classifier.0", x)), 0.5)
    return net.dense("classifier.6", net.drop(relu(net.dense("classifier.3", x)), 0.5))


CONVOLUTIONS = ((4, 5, 1), (4, 1, 1), (5, 3, 2), (6, 3, 1), (6, 3, 2))


def all_convolutions(net, x):
    x, number = net.drop(x, 0.2), 1
    for _, kernel, stride in CONVOLUTIONS:
        x = relu(net.conv(f"features.{number}", x, stride, kernel // 2))
        x = net.drop(x, 0.5) if stride == 2 else x
        number += 2 + (stride == 2)
    x = relu(net.conv(f"features.{number}", x))
    return relu(net.conv("classifier.0", relu(net.conv(f"features.{number + 2}", x)))).mean((1, 2))


def residual(net, x, shortcuts=True):
    x = relu(net.norm("bn1", net.conv("conv1", x, 1, 1)))
    for stage, width in enumerate((16, 32, 64), 1):
        name, stride = f"layer{stage}.0", 2 if stage > 1 else 1
        y = relu(net.norm(f"{name}.bn1", net.conv(f"{name}.conv1", x, stride, 1)))
        y = net.norm(f"{name}.bn2", net.conv(f"{name}.conv2", y, 1, 1))
        added = jnp.concatenate([x, jnp.zeros((*x.shape[:3], width - x.shape[3]))], 3)[:, ::stride, ::stride]
        x = relu(y + added if shortcuts else y)
    return net.dense("fc", x.mean((1, 2)))


def plain(net, x):
    return residual(net, x, shortcuts=False)


def fractal(net, x):
    """Three columns: a convolution beside two times (a convolution beside two)."""

    def unit(name, x):
        return relu(net.norm(f"{name}.bn", net.drop(net.conv(f"{name}.conv", x, 1, 1), 0.25 * block)))

    def two(name, x):
        return unit(f"{name}.unit", x), unit(f"{name}.second.unit", unit(f"{name}.first.unit", x))

    for block in range(2):
        name = f"blocks.{block}.fractal"
        half = sum(two(f"{name}.first", x)) / 2
        x = max_pool((unit(f"{name}.unit", x) + sum(two(f"{name}.second", half))) / 3, 2, 2)
    return net.dense("fc", x.mean((1, 2)))


def autoencoder(net, x):
    maps = [x]
    for number in range(3):
        maps.append(relu(net.conv(f"encoder.{2 * number}", maps[-1], 2, 1)))
    code = net.dense("encode_linear", maps[-1])
    x = net.dense("decode_linear", code).reshape(maps[-1].shape)
    for number in range(3):  # each the transpose of the encoder's convolution of that size
        like = jax.ShapeDtypeStruct(maps[2 - number].shape, x.dtype)
        kernel = net.arrays[f"decoder.{2 * number + 1}.kernel"].swapaxes(2, 3)
        spread = jax.linear_transpose(lambda y, k=kernel: conv(y, k, 2, 1), like)
        x = spread(relu(x))[0] + net.arrays[f"decoder.{2 * number + 1}.bias"]
    return x


NARROW = (((64, 2), (5, 2)), ((8, 2),), ((8, 2),))  # the first stage keeps the width that has a rate of its own


def attention(net, x):
    def unit(name, x, rate):
        return net.drop(relu(net.norm(f"{name}.1", net.conv(f"{name}.0", x, 1, 1), 1e-3)), rate)

    def vector(name, x):
        return net.drop(relu(net.norm(f"{name}.0", x)), 0.5)

    def pool(x):
        return max_pool(x, 2, 2, ceil=True)

    local = []
    for number, rates in enumerate(((0.3, 0, 0.4, 0), (0.4, 0), (0.4, 0)), 1):
        x = pool(x) if number > 1 else x
        for layer, rate in enumerate(rates, int(number > 1)):
            x = unit(f"stage{number}.{layer}", x, rate)
        local.append(x)
    x = unit("descriptor.3", pool(unit("descriptor.1", pool(x), 0.4)), 0.4)
    descriptor = net.dense("descriptor.7", net.drop(pool(x).mean((1, 2)), 0.5))
    picked = []
    for number, features in enumerate(local, 1):
        name, seen = f"attention{number}", descriptor
        if number == 1:
            seen = net.dense(f"{name}.project.3", vector(f"{name}.project", seen))
        scores = net.conv(f"{name}.score", features + seen[:, None, None])[..., 0]
        weights = jnp.exp(scores - scores.max((1, 2), keepdims=True))
        weights /= weights.sum((1, 2), keepdims=True)
        picked.append(vector(f"head{number}", (features * weights[..., None]).sum((1, 2))))
    return net.dense("fc", jnp.concatenate(picked, 1))


NETWORKS = {  # name of the network, reference, arguments, and the shape of its images
    "lecture-fcn": (lecture_fcn, {"image_size": 4, "hidden": (9, 8, 7)}, (3, 4, 4, 2)),
    "lecture-cnn": (lecture_cnn, {"image_size": 13}, (2, 13, 13, 2)),
    "zfnet": (zf_net, {}, (2, 63, 64, 2)),
    "all_cnn_b": (all_convolutions, {}, (2, 10, 9, 2)),
    "resnet20": (residual, {}, (2, 7, 6, 2)),
    "plain20": (plain, {}, (2, 7, 6, 2)),
    "fractalnet": (fractal, {"widths": (4, 5), "dropout": 0.25, "drop_path": 0.0}, (3, 7, 6, 2)),
    "conv_autoencoder": (autoencoder, {"image_size": 10, "code_size": 5}, (2, 10, 10, 2)),
    "vgg16_attention": (attention, {}, (3, 17, 18, 2)),
}


@pytest.fixture
def smaller(monkeypatch):
    """What no argument makes smaller; and a dropout whose mask is known."""

    fewer = {96: 4, 256: 5, 384: 6, 4096: 7, (6, 6, 256): (6, 6, 5)}

    def narrow(layer):
        return lambda ins, outs, *rest, **options: layer(fewer.get(ins, ins), fewer.get(outs, outs), *rest, **options)

    monkeypatch.setattr(zfnet, "Linear", narrow(Linear))
    monkeypatch.setattr(zfnet, "Conv", narrow(Conv))
    monkeypatch.setattr(vgg_attention, "STAGES", NARROW)
    monkeypatch.setattr(vgg_attention, "WIDTH", 8)
    known = lambda self, x: x if self.deterministic or not self.rate else x * mask(x.shape, self.rate)  # noqa: E731
    monkeypatch.setattr(nnx.Dropout, "__call__", known)


def create(name, options, channels):
    if name == "all_cnn_b":
        return all_cnn.AllCNN(CONVOLUTIONS, num_classes=3, in_channels=channels, rngs=nnx.Rngs(0))
    if name in ("resnet20", "plain20"):
        return resnet_cifar.CifarResNet(
            8, num_classes=3, in_channels=channels, residual=name == "resnet20", rngs=nnx.Rngs(0)
        )
    return models.create_model(name, num_classes=3, in_channels=channels, **options)


def random_state(state):
    """Values about which nothing is special: no zero biases, and scales and variances other than 1."""
    rng = np.random.default_rng(0)

    def value(path, array):
        last = path_name(path).rpartition(".")[2]
        if last in ("scale", "var"):
            return rng.uniform(0.7, 1.4, array.shape)
        spread = np.sqrt(2 / np.prod(array.shape[:-1])) if last == "kernel" else 0.2
        return rng.standard_normal(array.shape) * spread

    return {path: value(path, variable.get_value()) for path, variable in nnx.to_flat_state(state)}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_in_training_are_those_of_the_network_in_plain_lax(name, smaller):
    reference, options, shape = NETWORKS[name]
    with jax.enable_x64(True):
        model = eval_shape(lambda: create(name, options, shape[3]))
        model.train()
        graphdef, state, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
        arrays = random_state(state)
        rng = np.random.default_rng(1)
        x = rng.standard_normal(shape)
        statistics = {path: array for path, array in arrays.items() if path[-1] in ("mean", "var")}
        params = {path: array for path, array in arrays.items() if path not in statistics}

        def ours(params):
            values = {
                path: variable.replace((params | statistics)[path]) for path, variable in nnx.to_flat_state(state)
            }
            return nnx.merge(graphdef, nnx.from_flat_state(values), rest, copy=True)(x)

        def theirs(params):
            named = {path_name(path): array for path, array in (params | statistics).items()}
            return reference(Reference(named), x)

        def both(params):
            (mine, pull), (expected, slope) = (jax.vjp(function, params) for function in (ours, theirs))
            cotangent = rng.standard_normal(expected.shape)
            return (mine, pull(cotangent)[0]), (expected, slope(cotangent)[0])

        (mine, gradients), (expected, slopes) = jax.device_get(computed(both, params))
    np.testing.assert_allclose(mine, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    for path in gradients:
        atol = 1e-7 * np.abs(slopes[path]).max() + 1e-9
        np.testing.assert_allclose(gradients[path], slopes[path], rtol=1e-7, atol=atol, err_msg=str(path))


# Springenberg et al. (2014), tables 1 and 2: kernel, stride and size of the feature maps of 32x32 images.
ALL_CNN = {
    "a": [(5, 1, 32), (3, 2, 16), (5, 1, 16), (3, 2, 8), (3, 1, 6), (1, 1, 6)],
    "b": [(5, 1, 32), (1, 1, 32), (3, 2, 16), (5, 1, 16), (1, 1, 16), (3, 2, 8), (3, 1, 6), (1, 1, 6)],
    "c": [(3, 1, 32), (3, 1, 32), (3, 2, 16), (3, 1, 16), (3, 1, 16), (3, 2, 8), (3, 1, 6), (1, 1, 6)],
}


@pytest.mark.parametrize("letter", ALL_CNN)
def test_all_cnn_s_convolutions_are_the_paper_s(letter):
    model = eval_shape(lambda: models.create_model(f"all_cnn_{letter}", num_classes=10))
    found = {path_name(path): layer for path, layer in nnx.iter_modules(model) if isinstance(layer, Conv)}
    rows = [row for row in models.layer_rows(model, (32, 32, 3)) if row.kind == "Conv"]
    shapes = [(found[row.name].kernel_size[0], found[row.name].stride, row.output_shape) for row in rows]
    half = len(shapes) // 2 - 1
    widths = [96] * half + [192] * (len(shapes) - half)
    expected = [(k, s, (size, size, width)) for (k, s, size), width in zip(ALL_CNN[letter], widths, strict=False)]
    assert shapes == [*expected, (1, 1, (6, 6, 10))]
