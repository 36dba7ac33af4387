"""What a recipe asks for is what training does."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from cnnjax import models, nn, runs, tasks, train
from cnnjax.data import Split, augment, epoch_order
from cnnjax.errors import UserError
from cnnjax.tasks.losses import softmax_cross_entropy
from cnnjax.train.averages import averaged_variables
from cnnjax.train.optimizers import learning_rate
from cnnjax.train.state import means
from cnnjax.train.step import AUGMENTATION
from tests.train.test_loop import TASK, Plain, Small, StopAfter, fit, images

AUGMENT = "brightness blend"


@pytest.fixture
def blend(monkeypatch):
    """An augmentation that mixes images and labels, and compiles in a tenth of the time of mixup."""

    def mix(key, sample):
        share = jax.random.uniform(key, (len(sample.images),))
        images = share[:, None, None, None] * sample.images
        labels = share[:, None] * sample.labels + (1 - share[:, None]) * sample.labels[::-1]
        return dataclasses.replace(sample, images=images, labels=labels)

    monkeypatch.setitem(augment.AUGMENTATIONS, "blend", lambda: mix)


def test_augmented_training_learns_and_resumes_to_the_same_bits(tmp_path, one_device, monkeypatch):
    whole = fit(tmp_path / "whole", one_device, epochs=3, augment="brightness")
    assert whole.history["validation/accuracy"][-1] > 0.5
    stop = {"epochs": 3, "callbacks": [StopAfter(7)]}
    with pytest.raises(runs.Interrupted):
        fit(tmp_path / "again", one_device, augment="brightness", **stop)
    again = fit(tmp_path / "again", one_device, epochs=3, augment="brightness")
    assert train.tree_sha256(again.state.params) == train.tree_sha256(whole.state.params)


def one_step(model, recipe, batch, parallel, **fields):
    """The state that one compiled step over a batch ends with, and the one it starts from."""
    step = train.compile_step(model(nnx.Rngs(0)), TASK, recipe, parallel)
    state = step.initial._replace(**fields)
    return parallel.one_copy(step(parallel.replicate(state), parallel.split(batch))), state


def batch_of(split, weights=None):
    """All images of a split as a batch."""
    return split.take(slice(None), np.ones(split.size, np.float32) if weights is None else weights)


@jax.jit
def loss_of(params, images, targets):
    """The loss of `Plain`, computed without a step."""
    return softmax_cross_entropy(nnx.merge(nnx.graphdef(Plain(nnx.Rngs(0))), params)(images), targets).mean()


def test_augmentation_runs_inside_the_compiled_step_on_every_replica(tmp_path, blend):
    options = {"epochs": 1, "optimizer": "sgd", "lr": 1e-30, "batch_size": 72, "augment": AUGMENT}
    results = [
        fit(tmp_path / str(whole), train.Parallel("shard_map", jax.local_devices()[:2], whole), model=Plain, **options)
        for whole in (False, True)
    ]
    params = results[0].state.params
    (order,), _ = epoch_order(1, 0, 72, 72)
    pictures, labels = jnp.float32(images(72).images[order]) / 255, jax.nn.one_hot(images(72).labels[order], 4)

    @jax.jit
    def changed(key, *share):
        return augment.parse(AUGMENT)(key, augment.Sample(*share))

    losses = []
    for replica, share in enumerate(zip(jnp.split(pictures, 2), jnp.split(labels, 2), strict=True)):
        # The key is folded from the seed's with the step, the replica, and what it is for.
        key = functools.reduce(jax.random.fold_in, (0, replica, AUGMENTATION), jax.random.key(1))
        sample = changed(key, *share)
        losses.append(float(loss_of(params, sample.images, sample.labels)))
    for result in results:
        assert result.history["train/loss"] == [pytest.approx(np.mean(losses), rel=1e-5)]
    assert abs(float(loss_of(params, pictures, labels)) - np.mean(losses)) > 1e-3


def test_images_a_second_are_those_that_count(tmp_path, one_device, monkeypatch):
    rate = lambda result, epoch: (  # noqa: E731
        result.history["train/images_per_second"][epoch] * result.history["train/seconds"][epoch]
    )
    whole = fit(tmp_path / "whole", one_device, model=Plain, epochs=1)
    assert rate(whole, 0) == pytest.approx(72)  # in batches of 16, the last of 8
    with pytest.raises(runs.Interrupted):
        fit(tmp_path / "again", one_device, model=Plain, epochs=1, callbacks=[StopAfter(2)])
    again = fit(tmp_path / "again", one_device, model=Plain, epochs=1)
    steps = round(again.history["train/seconds"][0] * 1e3 / again.history["train/step_ms"][0])
    assert 0 < steps < 5
    assert rate(again, 0) == pytest.approx(16 * steps - 8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_convolutions_and_products_compute_in_the_precision_forwards_and_backwards(precision, one_device):
    recipe, batch = train.Recipe(precision=precision), batch_of(images(16))
    program = jax.make_jaxpr(lambda: one_step(Small, recipe, batch, one_device))()
    computed = [
        (equation.primitive.name, {variable.aval.dtype.name for variable in (*equation.invars, *equation.outvars)})
        for equation in every_equation(program.jaxpr)
        if equation.primitive.name.startswith(("conv2d", "conv_general", "dot_general"))
    ]
    assert sorted(name for name, _ in computed) == ["conv2d", "conv2d_kernel_gradient", *["dot_general"] * 3]
    assert all(dtypes == {precision} for _, dtypes in computed)


def every_equation(jaxpr):
    """The equations of a program and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from every_equation(inner)


def test_bfloat16_learns_with_parameters_and_statistics_in_float32(tmp_path, one_device):
    result = fit(tmp_path, one_device, precision="bfloat16")
    kept = jax.tree.leaves((result.state.params, result.state.model_state, result.state.opt_state))
    assert {leaf.dtype for leaf in kept if jnp.issubdtype(leaf.dtype, jnp.floating)} == {jnp.dtype("float32")}
    assert result.history["train/loss"][-1] < 0.7 * result.history["train/loss"][0]


class Branched(Plain):
    """In training, a second classifier beside the first."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.auxiliary = nn.Linear(192, 4, rngs=rngs)
        self.deterministic = False

    def __call__(self, x):
        logits = super().__call__(x)
        if self.deterministic:
            return logits
        return models.WithAuxiliary(logits, (self.auxiliary(self.flatten(x)),), 0.3)


def test_auxiliary_losses_are_added_with_their_weight_and_the_main_logits_are_evaluated(tmp_path, one_device, blend):
    options = {"epochs": 1, "optimizer": "sgd", "lr": 1e-30, "batch_size": 72}
    history = fit(tmp_path / "plain", one_device, model=Branched, **options).history
    pictures = images(72)
    outputs = Branched(nnx.Rngs(0))(pictures.images.astype(np.float32) / 255)
    main, auxiliary = (
        float(softmax_cross_entropy(logits, pictures.labels).mean()) for logits in (outputs.logits, *outputs.auxiliary)
    )
    assert history["train/loss"] == pytest.approx([main + 0.3 * auxiliary], rel=1e-5)
    right = outputs.logits.argmax(-1) == pictures.labels
    assert history["train/accuracy"] == pytest.approx([float(right.mean())])
    augmented = fit(tmp_path / "augmented", one_device, model=Branched, augment=AUGMENT, **options)
    assert np.isfinite(augmented.history["train/loss"]).all()


class Dropping(Plain):
    """Only what dropout leaves reaches the output."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.dropout = nn.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(super().__call__(x))


def test_every_step_and_replica_draws_its_own_dropout():
    recipe, parallel = train.Recipe(optimizer="sgd", lr=1e-30), train.Parallel(devices=jax.local_devices()[:2])
    step = train.compile_step(Dropping(nnx.Rngs(0)), TASK, recipe, parallel)
    one, losses = images(1), []
    batch = batch_of(Split(np.repeat(one.images, 2, 0), np.repeat(one.labels, 2)))
    for number in range(6):
        moved = parallel.replicate(step.initial._replace(step=jnp.int32(number)))
        losses.append(float(step(moved, parallel.split(batch)).sums["loss"]))
    assert len(set(losses)) > 2


def test_a_moving_average_is_what_validation_evaluates(tmp_path, one_device):
    result = fit(tmp_path, one_device, ema=0.9)
    variables = result.state.params, result.state.model_state
    average = dict(zip(("params", "model_state"), averaged_variables(result.state.opt_state, *variables), strict=True))
    for ours, newest in zip(average.values(), variables, strict=True):
        assert train.tree_sha256(ours) != train.tree_sha256(newest)
    plain = result.state._replace(**average, opt_state=())
    for state in (result.state, plain):
        figures = train.evaluate(result.network, state, TASK, images(20, 1), parallel=one_device).figures
        assert figures["loss"] == pytest.approx(result.history["validation/loss"][-1], rel=1e-6)


def test_learning_rate_and_on_demand_the_gradient_norm_are_recorded(tmp_path, one_device):
    options = {"schedule": "cosine", "lr": 1e-2, "epochs": 3, "gradient_norm": True}
    result = fit(tmp_path, one_device, **options)
    expected = [float(learning_rate(train.Recipe(**options), 5, 3, 5 * (epoch + 1) - 1)) for epoch in range(3)]
    assert result.history["train/lr"] == pytest.approx(expected)
    assert result.history["train/gradient_norm"][-1] > 0


def test_the_gradient_norm_is_that_of_the_whole_batch_s_gradient(one_device):
    batch = batch_of(images(16), np.float32(np.arange(16) < 12))  # four images fill up
    recipe = train.Recipe(gradient_norm=True, clip_norm=1e-3)
    after, before = one_step(Plain, recipe, batch, train.Parallel(devices=jax.local_devices()[:4]))
    gradients = jax.jit(jax.grad(loss_of))(before.params, jnp.float32(batch.images[:12]) / 255, batch.labels[:12])
    expected = np.sqrt(sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(gradients)))
    assert means(after.sums)["gradient_norm"] == pytest.approx(expected, rel=1e-5)


def test_a_penalty_counts_once_however_many_replicas_there_are(tmp_path, one_device):
    one = fit(tmp_path / "one", one_device, model=Plain, epochs=1, l2=0.1)
    none = fit(tmp_path / "none", one_device, model=Plain, epochs=1)
    assert one.history["train/loss"][0] > none.history["train/loss"][0] + 0.1
    for mode in train.MODES:
        four = fit(tmp_path / mode, train.Parallel(mode, jax.local_devices()[:4]), model=Plain, epochs=1, l2=0.1)
        assert four.history["train/loss"] == pytest.approx(one.history["train/loss"], rel=1e-5)
        for ours, theirs in zip(jax.tree.leaves(four.state.params), jax.tree.leaves(one.state.params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "muon"},
        {"optimizer": "lamb"},
        {"task": tasks.Classification(tasks.ClassificationLoss("mse"))},
        {"accumulate": 2},
    ],
)
def test_every_kind_of_recipe_learns(options, tmp_path, one_device):
    result = fit(tmp_path, one_device, model=lambda rngs: Plain(nnx.Rngs(0)), epochs=4, **options)
    assert result.history["train/loss"][-1] < 0.9 * result.history["train/loss"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "mirorr"}, "unknown augmentation 'mirorr': did you mean mirror"),
        ({"precision": "float16"}, "unknown `precision` 'float16': did you mean .*float32"),
        ({"epochs": 0}, "`epochs` must be an integer of at least 1, got 0"),
        ({"l1": -1.0}, "`l1` must be at least 0 and finite, got -1.0"),
        ({"l2": None}, "`l2` must be at least 0 and finite, got None"),
        ({"seed": -1}, "`seed` must be from 0 to 2147483647, got -1"),
        ({"optimizer": "adaam"}, "unknown `optimizer` 'adaam'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(UserError, match=message):
        train.Recipe(**options)


def test_a_profile_is_written_and_changes_nothing(tmp_path, one_device):
    plain = fit(tmp_path / "plain", one_device, batch_size=4, epochs=1)
    run = runs.Run(tmp_path / "traced", "test", profile=True).part("small")
    traced = fit(tmp_path / "traced", one_device, batch_size=4, epochs=1, run=run)
    assert train.tree_sha256(traced.state.params) == train.tree_sha256(plain.state.params)
    assert list((tmp_path / "traced" / "profile" / "small").rglob("*.trace.json.gz"))


def test_tensorboard_holds_scalars_images_and_histograms(tmp_path, one_device):
    fit(tmp_path, one_device, epochs=1)
    (events,) = (tmp_path / "tensorboard" / "small").iterdir()
    content = events.read_bytes()
    for name in (b"train/loss", b"validation/accuracy", b"train/lr", b"examples", b"conv/kernel"):
        assert name in content, name
