"""Every operation and its gradients in what JAX offers: modes that check, other types, meshes, exported programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax import ops
from tests.ops.calls import CALLS, arrays_of, cotangent_of, with_gradients
from tests.ops.operations import QUICK, computed

EVERY = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def same(ours, theirs, **tolerance):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(one, float), other, **tolerance)


@EVERY
@pytest.mark.parametrize("leaks", [False, pytest.param(True, marks=pytest.mark.published)])  # which takes long
def test_modes_that_check_find_nothing(call, leaks):
    """Ranks that must agree, NaNs that are errors, tracers that must not leak."""
    arrays = arrays_of(call)
    with jax.numpy_rank_promotion("raise"), jax.debug_nans(True), jax.check_tracer_leaks(leaks):
        value, _ = computed(with_gradients(call), arrays, cotangent_of(call, arrays))
    assert np.isfinite(value).all()


@pytest.mark.published
@EVERY
def test_images_sharded_over_an_explicit_mesh_give_the_same_numbers(call):
    """The mesh that `jax.make_mesh` makes by default; gradients of weights are whole on every device."""
    arrays = arrays_of(call)
    if arrays[0].shape[0] % 4:
        pytest.skip("a batch that four devices cannot share")
    cotangent = cotangent_of(call, arrays)
    expected = computed(with_gradients(call), arrays, cotangent)
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        batch, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
        first, *others = arrays
        sharded = jax.device_put(first, batch), *(jax.device_put(other, whole) for other in others)
        value, gradients = jax.jit(with_gradients(call))(sharded, jax.device_put(cotangent, batch))
        assert value.sharding.spec[0] == gradients[0].sharding.spec[0] == "data"
        assert all(gradient.sharding.is_fully_replicated for gradient in gradients[1:])
    same((value, gradients), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.published
@EVERY
def test_a_program_for_batches_of_any_size_is_exported_for_every_platform_and_runs(call):
    arrays = arrays_of(call)
    cotangent = cotangent_of(call, arrays)
    (count,) = export.symbolic_shape("count")

    def any_size(array):
        return jax.ShapeDtypeStruct((count, *array.shape[1:]), array.dtype)

    first, *others = arrays
    program = export.export(jax.jit(with_gradients(call)), platforms=["cpu", "cuda", "rocm", "tpu"])
    exported = program((any_size(first), *others), any_size(cotangent))
    ours = exported.call(arrays, cotangent)
    expected = computed(with_gradients(call), arrays, cotangent)
    same(ours, expected, rtol=1e-4, atol=1e-5)


@EVERY
def test_an_empty_batch_gives_an_empty_result_and_gradients_of_zero(call):
    arrays = arrays_of(call, shapes=((0, *call.shapes[0][1:]), *call.shapes[1:]))
    value, gradients = computed(with_gradients(call), arrays, cotangent_of(call, arrays))
    assert value.shape[0] == 0
    assert gradients[0].shape == arrays[0].shape
    for gradient in gradients[1:]:
        np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


@EVERY
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.published)])
def test_half_precision_sums_in_float32(call, dtype):
    """Many values of one sign: in half precision their sum would stop growing at 256 units, or overflow."""
    first, *others = call.shapes
    large = [2, *(56 if size in (7, 8, 9, 10) else size for size in first[1:])]
    arrays = arrays_of(call, dtype, 0.5, 1.5, (large, *others))
    cotangent = cotangent_of(call, arrays, 0.5, 1.5)
    ours = computed(with_gradients(call), arrays, cotangent)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (arrays, cotangent))
        right = computed(with_gradients(call), *wide)
    units = 3 * float(jnp.finfo(dtype).eps)
    # Cotangents of one sign cancel in the gradient of what is normalised.
    rounding = units + 1e-6 * 2 * 56 * 56 if call.cancels else 0
    assert {one.dtype for one in jax.tree.leaves(ours)} == {jnp.dtype(dtype)}
    same(ours, right, rtol=units, atol=rounding)


@EVERY
@pytest.mark.parametrize("bad", [np.inf, pytest.param(np.nan, marks=pytest.mark.published)])
def test_a_value_that_is_not_finite_reaches_what_reads_it_and_nothing_else(call, bad):
    """What reads a value is what changes with it where all is finite.

    For a gradient of weights the zeros of padding count as read, with all taps of a pair of channels.
    """
    arrays = arrays_of(call)
    cotangent = cotangent_of(call, arrays)
    compute = jax.jit(with_gradients(call)).lower(arrays, cotangent).compile(QUICK)
    (first, *others), rng = arrays, np.random.default_rng(2)
    taps = (2, 3) if call is CALLS["conv of NCHW"] else (0, 1)

    def leaves(x, cotangent):
        (value, (gradient, *of_weights)) = compute((x, *others), cotangent)
        return [np.asarray(leaf) for leaf in (value, gradient, *of_weights)]

    usual = leaves(first, cotangent)
    for _ in range(4):
        at, at_output = (tuple(rng.integers(array.shape)) for array in (first, cotangent))
        for broken, *changed in (
            [leaves(first.at[at].set(v), cotangent) for v in (bad, 1e3, -1e3)],
            [leaves(first, cotangent.at[at_output].set(v)) for v in (bad, 1e3, -1e3)],
        ):
            for k, before in enumerate(usual):
                reads = np.any([before != leaf[k] for leaf in changed], 0)
                lost = ~np.isfinite(broken[k])
                if k > 1 and before.ndim == 4:
                    reads, lost = reads.any(taps), lost.any(taps)
                assert not (lost & ~reads).any()
                if call.linear:
                    np.testing.assert_array_equal(lost, reads)


@pytest.mark.parametrize(
    "mean",
    [
        lambda x: ops.moments(x)[1],
        ops.global_avg_pool2d,
        lambda x: ops.adaptive_avg_pool2d(x, 1),
        lambda x: ops.group_norm(x, 1, jnp.ones(1), jnp.zeros(1)),
    ],
)
def test_a_mean_may_be_of_more_values_than_an_index_counts(mean):
    """2^32 of them, of which nothing is computed (jax-ml/jax#5952)."""
    images = jax.ShapeDtypeStruct((1, 65536, 65536, 1), jnp.bfloat16)
    gradient = jax.eval_shape(jax.grad(lambda x: mean(x).astype(jnp.float32).sum()), images)
    assert (gradient.shape, gradient.dtype) == (images.shape, images.dtype)
