"""What a recipe asks for is what training does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, nn, train
from cnnjax.errors import UserError
from cnnjax.train import loop
from cnnjax.train.averages import averaged_variables
from cnnjax.train.losses import softmax_cross_entropy
from cnnjax.train.optimizers import learning_rate
from tests.train.test_loop import Plain, Small, StopAfter, fit, images

AUGMENT = "translate mirror brightness mixup:alpha=0.4"


def test_augmented_training_learns_and_resumes_to_the_same_bits(tmp_path, one_device, monkeypatch):
    whole = fit(tmp_path / "whole", one_device, epochs=3, augment="translate:fraction=0.1 brightness")
    assert whole.history["validation/accuracy"][-1] > 0.5
    with monkeypatch.context() as patch:
        patch.setattr(loop, "display", lambda *args: StopAfter(7))
        with pytest.raises(train.Interrupted):
            fit(tmp_path / "again", one_device, epochs=3, augment="translate:fraction=0.1 brightness")
    again = fit(tmp_path / "again", one_device, epochs=3, augment="translate:fraction=0.1 brightness")
    plain = fit(tmp_path / "plain", one_device, epochs=3)
    assert train.tree_sha256(again.state.params) == train.tree_sha256(whole.state.params)
    assert train.tree_sha256(plain.state.params) != train.tree_sha256(whole.state.params)


@pytest.mark.parametrize("epoch_program", [False, True])
def test_augmentation_runs_inside_the_compiled_step_on_every_replica(epoch_program, tmp_path):
    parallel = train.Parallel(devices=jax.local_devices()[:2])
    result = fit(tmp_path, parallel, model=Plain, epochs=1, augment=AUGMENT, epoch_program=epoch_program)
    assert np.isfinite(result.history["train/loss"]).all()


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_statistics_in_float32(tmp_path, one_device):
    seen = []

    class Watched(Small):
        def __call__(self, x):
            logits = super().__call__(x)
            seen.append((x.dtype, logits.dtype))
            return logits

    result = fit(tmp_path, one_device, model=Watched, precision="bfloat16")
    assert {jnp.dtype(dtype) for dtypes in seen for dtype in dtypes} >= {jnp.dtype("bfloat16")}
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


def test_auxiliary_losses_are_added_with_their_weight_and_the_main_logits_are_judged(tmp_path, one_device):
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
    from cnnjax.train.optimizers import make_optimizer
    from cnnjax.train.step import Constants, make_train_step

    recipe, parallel = train.Recipe(optimizer="sgd", lr=1e-30), train.Parallel(devices=jax.local_devices()[:2])
    optimizer = make_optimizer(recipe, 1, 1)
    network, state = train.split_model(Dropping(nnx.Rngs(0)), optimizer)
    step = parallel.map(make_train_step(network, optimizer, recipe), donate=False)
    one = images(1)
    batch = train.Batch(np.repeat(one.images, 2, 0), np.repeat(one.labels, 2), np.ones(2, np.float32))
    losses, constants = [], Constants(jax.random.key(0))
    for number in range(6):
        moved = state._replace(step=jnp.int32(number))
        losses.append(float(step(moved, constants, parallel.split(batch)).sums["loss"]))
    assert len(set(losses)) > 2


def test_a_moving_average_is_what_validation_judges(tmp_path, one_device):
    result = fit(tmp_path, one_device, ema=0.9)
    recipe = train.Recipe(ema=0.9)
    variables = result.state.params, result.state.model_state
    average = dict(zip(("params", "model_state"), averaged_variables(result.state.opt_state, *variables), strict=True))
    for ours, newest in zip(average.values(), variables, strict=True):
        assert train.tree_sha256(ours) != train.tree_sha256(newest)
    judged = train.evaluate(result.network, result.state, images(20, 1), one_device, recipe)
    assert judged.loss == pytest.approx(result.history["validation/loss"][-1], rel=1e-6)
    plain = train.evaluate(
        result.network, result.state._replace(**average, opt_state=()), images(20, 1), one_device, train.Recipe()
    )
    assert plain.loss == pytest.approx(judged.loss, rel=1e-6)


def test_learning_rate_and_on_demand_the_gradient_norm_are_recorded(tmp_path, one_device):
    options = {"schedule": "cosine", "lr": 1e-2, "epochs": 3, "gradient_norm": True}
    result = fit(tmp_path, one_device, **options)
    expected = [float(learning_rate(train.Recipe(**options), 5, 3, 5 * (epoch + 1) - 1)) for epoch in range(3)]
    assert result.history["train/lr"] == pytest.approx(expected)
    assert min(result.history["train/gradient_norm"]) > 0


@pytest.mark.parametrize("mode", train.MODES)
def test_a_penalty_counts_once_however_many_replicas_there_are(mode, tmp_path, one_device):
    one = fit(tmp_path / "one", one_device, model=Plain, epochs=1, l2=0.1)
    parallel = train.Parallel(mode, jax.local_devices()[:4])
    four = fit(tmp_path / "four", parallel, model=Plain, epochs=1, l2=0.1)
    none = fit(tmp_path / "none", one_device, model=Plain, epochs=1)
    assert four.history["train/loss"] == pytest.approx(one.history["train/loss"], rel=1e-5)
    assert one.history["train/loss"][0] > none.history["train/loss"][0] + 0.1
    for ours, theirs in zip(jax.tree.leaves(four.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"optimizer": "muon"}, {"optimizer": "lamb"}, {"loss": "mse"}, {"accumulate": 2}])
def test_every_kind_of_recipe_learns(options, tmp_path, one_device):
    result = fit(tmp_path, one_device, model=lambda rngs: Plain(nnx.Rngs(0)), epochs=4, **options)
    assert result.history["train/loss"][-1] < 0.9 * result.history["train/loss"][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "mirorr"}, "unknown augmentation 'mirorr': did you mean mirror"),
        ({"precision": "float16"}, "--precision must be one of float32, bfloat16, got 'float16'"),
        ({"epochs": 0}, "--epochs must be an integer of at least 1, got 0"),
        ({"seed": -1}, "--seed must be from 0 to 2147483647, got -1"),
        ({"optimizer": "adaam"}, "unknown optimiser 'adaam'"),
        ({"loss": "cross"}, "unknown loss 'cross'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(UserError, match=message):
        train.Recipe(**options)


def test_a_profile_is_written_and_changes_nothing(tmp_path, one_device):
    plain = fit(tmp_path / "plain", one_device, batch_size=4, epochs=1)
    run = train.Run(tmp_path / "traced", "test", {}, profile=True)
    run.create()
    traced = fit(tmp_path / "traced", one_device, batch_size=4, epochs=1, run=run)
    assert train.tree_sha256(traced.state.params) == train.tree_sha256(plain.state.params)
    assert list((tmp_path / "traced" / "profile" / "small").rglob("*.trace.json.gz"))


def test_tensorboard_holds_scalars_images_and_histograms(tmp_path, one_device):
    fit(tmp_path, one_device, epochs=1)
    (events,) = (tmp_path / "tensorboard" / "small").iterdir()
    content = events.read_bytes()
    for name in (b"train/loss", b"validation/accuracy", b"train/lr", b"examples", b"conv/kernel"):
        assert name in content, name
