"""Networks where JAX checks more than usual, for batches of any size, of no image, and for other devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from cnnjax import models, tasks, train
from cnnjax.data import Split
from cnnjax.models.registry import lookup
from tests.models.test_training import OPTIONS, QUICK, SIZES, networks
from tests.ops.operations import computed
from tests.ops.test_exports import counts, plain_lax  # noqa: F401

NAMES = models.list_models(task="classification")
FAMILIES = list({lookup(name).place: name for name in sorted(NAMES, key=lambda name: name in QUICK)}.values())


def size_of(name):
    return next((size for start, size in SIZES.items() if name.startswith(start)), 64)


def built(name):
    return models.create_model(name, num_classes=10, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", networks(NAMES))
def test_an_empty_batch_gives_no_logits_and_ranks_agree(name):
    model, size = built(name), size_of(name)
    with jax.numpy_rank_promotion("raise"):
        for mode in (model.eval, model.train):
            mode()
            graphdef, state = nnx.split(model)
            logits = jax.eval_shape(
                lambda state, x, graphdef=graphdef: nnx.merge(graphdef, state)(x),
                state,
                jax.ShapeDtypeStruct((0, size, size, 3), jnp.float32),
            )
            assert jax.tree.leaves(logits)[0].shape == (0, 10)


@pytest.mark.parametrize("name", networks(FAMILIES))
def test_a_network_is_exported_for_batches_of_any_size(name):
    model, size = built(name), size_of(name)
    model.eval()
    graphdef, state = nnx.split(model)
    images = jax.ShapeDtypeStruct((export.symbolic_shape("count")[0], size, size, 3), jnp.float32)
    program = export.export(jax.jit(lambda x: nnx.merge(graphdef, state)(x)), platforms=["cpu", "cuda", "tpu"])(images)
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(3, size, size, 3)), jnp.float32)
    ours, expected = computed(lambda x: (program.call(x), nnx.merge(graphdef, state)(x)), x)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.published
def test_no_tracer_of_a_network_leaks():
    model = built("resnet20")
    model.eval()
    graphdef, params, others = nnx.split(model, nnx.Param, ...)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    with jax.checking_leaks():
        slopes = jax.eval_shape(jax.grad(lambda p, x: nnx.merge(graphdef, p, others)(x).sum()), params, images)
    assert jax.tree.map(jnp.shape, slopes) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize("name", networks(FAMILIES))
def test_an_accelerator_s_training_step_is_that_of_plain_lax(name, request):
    size = size_of(name)
    step = request.getfixturevalue("training_step")(name, size)
    with jax.numpy_rank_promotion("raise"):
        ours = {platform: counts(*step, platform) for platform in ("cuda", "tpu")}
    request.getfixturevalue("plain_lax")
    step = request.getfixturevalue("training_step")(name, size)
    assert ours == {platform: counts(*step, platform) for platform in ours}
    assert ours["cuda"]["convolution"] >= 2


@pytest.fixture
def training_step():
    """The step of one replica with its arguments, traced anew at every call."""

    def build(name, size):
        one = train.Parallel(devices=jax.local_devices()[:1])
        step = train.compile_step(built(name), tasks.Classification(), train.Recipe(), one)
        split = Split(np.zeros((2, size, size, 3), np.uint8), np.zeros(2, np.int32))
        batch = split.take(slice(None), np.ones(2, np.float32))
        return one.map(step.replica), (step.start(), step.constants, batch)

    return build
