"""geometry is compared with what the layers really do, over a grid, not with itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import geometry, nn, ops

GRID = [
    (size, kernel, stride, padding, dilation)
    for size in (4, 5, 6, 7, 11)
    for kernel in (1, 2, 3, 4)
    for stride in (1, 2, 3)
    for padding in (0, 1, 2)
    for dilation in (1, 2)
    if dilation * (kernel - 1) + 1 <= size + 2 * padding
]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), GRID)
def test_conv_output_size_is_what_conv2d_gives(size, kernel, stride, padding, dilation):
    y = jax.eval_shape(
        lambda x, k: ops.conv2d(x, k, stride=stride, padding=padding, dilation=dilation),
        jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32),
        jax.ShapeDtypeStruct((kernel, kernel, 1, 1), jnp.float32),
    )
    assert y.shape[1] == geometry.conv_output_size(size, kernel, stride=stride, padding=padding, dilation=dilation)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "expected"),
    [(7, 3, 1, 0, 5), (7, 3, 2, 0, 3), (7, 3, 3, 0, 2), (32, 5, 1, 2, 32), (6, 3, 2, 0, 2), (6, 3, 2, 1, 3)],
)
def test_conv_output_size_of_the_lectures(size, kernel, stride, padding, expected):
    assert geometry.conv_output_size(size, kernel, stride=stride, padding=padding) == expected


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_keeps_the_size(kernel, dilation):
    padding = geometry.same_padding(kernel, dilation)
    assert geometry.conv_output_size(40, kernel, padding=padding, dilation=dilation) == 40


def test_same_padding_refuses_even_windows():
    with pytest.raises(ValueError, match="kernel=4"):
        geometry.same_padding(4)


@pytest.mark.parametrize(
    "layers", [[(3, 1, 1)] * 3, [(7, 2, 1), (3, 2, 1), (3, 1, 2)], [(3, 1, 1), (3, 1, 2), (3, 1, 4)]]
)
def test_receptive_field_is_the_extent_of_the_input_gradient(layers):
    def centre(x):
        for kernel, stride, dilation in layers:
            x = ops.conv2d(x, jnp.ones((kernel, 1, 1, 1)), stride=(stride, 1), dilation=(dilation, 1))
        return x[0, x.shape[1] // 2, 0, 0]

    gradient = jax.jit(jax.grad(centre))(jnp.ones((1, 61, 1, 1)))
    touched = jnp.flatnonzero(gradient)
    assert int(touched[-1] - touched[0]) + 1 == geometry.receptive_field(layers)


def test_conv_transpose_output_size_inverts_conv_output_size():
    for size in range(5, 12):
        for kernel, stride, padding in [(3, 1, 1), (3, 2, 1), (4, 2, 1), (2, 2, 0), (5, 3, 2)]:
            small = geometry.conv_output_size(size, kernel, stride=stride, padding=padding)
            back = {
                geometry.conv_transpose_output_size(small, kernel, stride=stride, padding=padding, output_padding=extra)
                for extra in range(stride)
            }
            assert size in back


@pytest.mark.parametrize(("stride", "padding", "dilation", "extra"), [(1, 0, 2, 1), (2, 1, 3, 2), (3, 2, 2, 0)])
def test_conv_transpose_output_size_is_what_conv_transpose2d_gives(stride, padding, dilation, extra):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    y = jax.eval_shape(
        lambda x, k: ops.conv_transpose2d(x, k, **options),
        jax.ShapeDtypeStruct((1, 5, 5, 1), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 1, 1), jnp.float32),
    )
    expected = (5 - 1) * stride - 2 * padding + dilation * (3 - 1) + extra + 1
    assert y.shape[1:3] == (expected, expected)
    assert geometry.conv_transpose_output_size(5, 3, **options) == expected


@pytest.mark.parametrize(("groups", "bias"), [(1, True), (1, False), (2, True), (4, False)])
def test_conv_params_and_macs_count_the_layer(groups, bias):
    layer = nn.Conv(8, 12, (3, 5), groups=groups, bias=bias, rngs=nnx.Rngs(0))
    params = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    assert geometry.conv_params(8, 12, (3, 5), groups=groups, bias=bias) == params
    # Every output pixel of every output channel sums 3 * 5 * 8 / groups products.
    assert geometry.conv_macs((6, 7), 8, 12, (3, 5), groups=groups) == 6 * 7 * 12 * 15 * 8 // groups


def test_counts_of_the_lectures():
    assert geometry.conv_params(3, 10, 5) == 760
    assert geometry.conv_macs(4, 3, 1, 3) == 432
    assert geometry.conv_macs(4, 3, 2, 3) == 864
    assert geometry.dense_params(32 * 32 * 3, 2048) == 6_293_504


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_pixel_utilization_counts_windows(kernel):
    counted = np.zeros((6, 6), int)
    for row in range(6 - kernel + 1):
        for column in range(6 - kernel + 1):
            counted[row : row + kernel, column : column + kernel] += 1
    np.testing.assert_array_equal(geometry.pixel_utilization(6, kernel), counted)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: geometry.conv_output_size(5, 0), "kernel must be at least 1, got 0"),
        (lambda: geometry.conv_output_size(5, 3, stride=0), "stride must be at least 1, got 0"),
        (lambda: geometry.conv_output_size(5, 3, padding=-1), "padding"),
        (lambda: geometry.conv_output_size(2, 3), "kernel=3"),
        (lambda: geometry.conv_output_size(5.5, 3), "size must be an integer, got 5.5"),
        (lambda: geometry.conv_params(3, 10, 5, groups=2), "in_channels=3"),
        (lambda: geometry.conv_transpose_output_size(4, 3, stride=2, output_padding=2), "output_padding=2"),
        (lambda: geometry.receptive_field([(3, 0, 1)]), "stride"),
    ],
)
def test_arguments_out_of_range_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
