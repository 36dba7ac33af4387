"""Losses are what their formulas say, one number an example, and stay finite; penalties see kernels alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import models, nn
from cnnjax.errors import UserError
from cnnjax.tasks import ClassificationLoss
from cnnjax.tasks.losses import (
    LOSSES,
    mean_squared_error,
    sigmoid_cross_entropy,
    sigmoid_focal,
    softmax_cross_entropy,
)
from cnnjax.train.groups import kernel_mask, l1_penalty, l2_penalty, penalty

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.standard_normal((6, 5))
CLASSES = RNG.integers(0, 5, 6)
MIXED = RNG.dirichlet(np.ones(5), 6)  # probabilities of classes that exclude each other
SEVERAL = RNG.integers(0, 2, (6, 5))  # classes that do not
MAPS, MAP_CLASSES = RNG.standard_normal((2, 3, 4, 5)), RNG.integers(0, 5, (2, 3, 4))


def one_hot(classes, count=5):
    return np.eye(count)[classes]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def categorical(logits, t, smoothing=0.0):
    t = (1 - smoothing) * t + smoothing / logits.shape[-1]
    return -(t * np.log(softmax(logits))).sum(-1)


def binary(logits, t, smoothing=0.0):
    t, p = (1 - smoothing) * t + smoothing / 2, 1 / (1 + np.exp(-logits))
    return (-t * np.log(p) - (1 - t) * np.log(1 - p)).mean(-1)


def focal(logits, t, gamma=2.0, alpha=0.25):
    p = 1 / (1 + np.exp(-logits))
    q, a = np.where(t == 1, p, 1 - p), np.where(t == 1, alpha, 1 - alpha)
    return (-a * (1 - q) ** gamma * np.log(q)).mean(-1)


def squared(outputs, t):
    return ((outputs - t) ** 2).mean(-1)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (softmax_cross_entropy(LOGITS, CLASSES), categorical(LOGITS, one_hot(CLASSES))),
        (softmax_cross_entropy(LOGITS, MIXED), categorical(LOGITS, MIXED)),
        (softmax_cross_entropy(LOGITS, CLASSES, label_smoothing=0.1), categorical(LOGITS, one_hot(CLASSES), 0.1)),
        (softmax_cross_entropy(LOGITS, MIXED, label_smoothing=0.3), categorical(LOGITS, MIXED, 0.3)),
        (softmax_cross_entropy(MAPS, MAP_CLASSES), categorical(MAPS, one_hot(MAP_CLASSES)).mean((1, 2))),
        (sigmoid_cross_entropy(LOGITS, SEVERAL), binary(LOGITS, SEVERAL)),
        (sigmoid_cross_entropy(LOGITS, SEVERAL == 1), binary(LOGITS, SEVERAL)),
        (sigmoid_cross_entropy(LOGITS, MIXED, label_smoothing=0.2), binary(LOGITS, MIXED, 0.2)),
        (sigmoid_cross_entropy(LOGITS, CLASSES), binary(LOGITS, one_hot(CLASSES))),
        (sigmoid_cross_entropy(LOGITS[:, :1], SEVERAL[:, 0]), binary(LOGITS[:, :1], SEVERAL[:, :1])),
        (sigmoid_cross_entropy(MAPS, MAP_CLASSES), binary(MAPS, one_hot(MAP_CLASSES)).mean((1, 2))),
        (sigmoid_focal(LOGITS, SEVERAL), focal(LOGITS, SEVERAL)),
        (sigmoid_focal(LOGITS, CLASSES, gamma=0.5, alpha=0.6), focal(LOGITS, one_hot(CLASSES), 0.5, 0.6)),
        (sigmoid_focal(LOGITS, SEVERAL, gamma=0, alpha=None), binary(LOGITS, SEVERAL)),
        (mean_squared_error(LOGITS, MIXED), squared(LOGITS, MIXED)),
        (mean_squared_error(LOGITS, CLASSES), squared(LOGITS, one_hot(CLASSES))),
        (mean_squared_error(MAPS, MAPS[::-1]), squared(MAPS, MAPS[::-1]).mean((1, 2))),
        (mean_squared_error(LOGITS[:, 0], MIXED[:, 0]), (LOGITS[:, 0] - MIXED[:, 0]) ** 2),
    ],
)
def test_losses_are_their_formulas(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=1e-6)


def test_the_default_is_optax_cross_entropy_to_the_bit():
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.float32(LOGITS), CLASSES)
    np.testing.assert_array_equal(ClassificationLoss().function()(jnp.float32(LOGITS), CLASSES), expected)


def test_softmax_outputs_sum_to_one_so_that_adding_to_all_logits_changes_nothing():
    """Claim G2."""
    np.testing.assert_allclose(
        softmax_cross_entropy(LOGITS + 100, CLASSES), softmax_cross_entropy(LOGITS, CLASSES), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [0.0, 50.0, 1e4])
def test_losses_and_gradients_are_finite_however_sure_the_network_is(name, size):
    logits = size * jnp.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0]])
    compute = ClassificationLoss(loss=name).function()
    for targets in (jnp.array([0, 0]), jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])):
        losses, pull = jax.vjp(lambda x, targets=targets: compute(x, targets), logits)
        assert jnp.isfinite(losses).all()
        assert jnp.isfinite(pull(jnp.ones_like(losses))[0]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_precision_logits_are_computed_in_float32(name):
    logits, compute = jnp.bfloat16(LOGITS), ClassificationLoss(loss=name).function()
    losses = compute(logits, CLASSES)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, compute(logits.astype(jnp.float32), CLASSES))


@pytest.mark.parity
def test_losses_and_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    F = torch.nn.functional  # noqa: N806

    def bce(x, t):
        return F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(-1)

    classes, several = torch.tensor(CLASSES), torch.tensor(SEVERAL, dtype=torch.double)
    pairs = {
        "classes": (ClassificationLoss(), CLASSES, lambda x: F.cross_entropy(x, classes, reduction="none")),
        "smooth": (
            ClassificationLoss(label_smoothing=0.1),
            CLASSES,
            lambda x: F.cross_entropy(x, classes, reduction="none", label_smoothing=0.1),
        ),
        "mixed": (ClassificationLoss(), MIXED, lambda x: F.cross_entropy(x, torch.tensor(MIXED), reduction="none")),
        "binary": (ClassificationLoss(loss="binary-cross-entropy"), SEVERAL, lambda x: bce(x, several)),
        "mse": (
            ClassificationLoss(loss="mse"),
            MIXED,
            lambda x: F.mse_loss(x, torch.tensor(MIXED), reduction="none").mean(-1),
        ),
    }
    weights = RNG.standard_normal(6)
    for name, (objective, targets, theirs) in pairs.items():
        x = torch.tensor(LOGITS, requires_grad=True)
        expected = theirs(x)
        expected.backward(torch.tensor(weights))
        losses, pull = jax.vjp(lambda x, o=objective, t=targets: o.function()(x, t), jnp.float32(LOGITS))
        np.testing.assert_allclose(losses, expected.detach(), rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(pull(jnp.float32(weights))[0], x.grad, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: softmax_cross_entropy(LOGITS, CLASSES[:5]),
            r"targets must be of shape \(6, 5\), or integers .* \(5,\)",
        ),
        (
            lambda: softmax_cross_entropy(LOGITS, CLASSES * 1.0),
            r"integers of shape \(6,\), got float32 of shape \(6,\)",
        ),
        (
            lambda: softmax_cross_entropy(LOGITS[:, :1], CLASSES),
            r"at least two classes on the last axis, got .* \(6, 1\)",
        ),
        (
            lambda: softmax_cross_entropy(LOGITS, CLASSES, label_smoothing=1.0),
            r"label_smoothing must be in \[0, 1\), got 1",
        ),
        (lambda: sigmoid_cross_entropy(LOGITS, MIXED[:, :1]), r"targets must be of shape \(6, 5\)"),
        (lambda: sigmoid_cross_entropy(SEVERAL, SEVERAL), "logits must be floating point with a batch axis, got int"),
        (lambda: sigmoid_focal(LOGITS, SEVERAL, gamma=-1), "gamma must be finite and at least 0, got -1"),
        (lambda: sigmoid_focal(LOGITS, SEVERAL, alpha=1.0), "alpha must be between 0 and 1, got 1.0"),
        (lambda: mean_squared_error(jnp.float32(1), jnp.float32(1)), r"outputs must be .* got float32 of shape \(\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------- targets that are no class

EVERY = (softmax_cross_entropy, sigmoid_cross_entropy, sigmoid_focal, mean_squared_error)


@pytest.mark.parametrize("compute", EVERY)
@pytest.mark.parametrize("target", [-1, -100, 5, 255, 2**32])
def test_a_target_that_is_no_class_is_refused_where_its_value_is_known(compute, target):
    message = rf"integers from 0 to 4 for outputs of shape \(6, 5\), got {target}: .* `ignore_index`"
    with pytest.raises(ValueError, match=message):
        compute(LOGITS, np.where(np.arange(6) == 4, target, CLASSES))
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda logits: compute(logits, np.where(np.arange(6) == 4, target, CLASSES)))(LOGITS)


@pytest.mark.parametrize("compute", EVERY)
@pytest.mark.parametrize(
    ("target", "options"), [(-1, {}), (5, {"label_smoothing": 0.1}), (-100, {"ignore_index": -2}), (255, {})]
)
def test_within_a_compiled_function_its_loss_and_gradient_are_nan_and_no_others(compute, target, options):
    if "label_smoothing" in options and compute not in EVERY[:2]:
        options = {}
    targets = np.where(np.arange(6) == 4, target, CLASSES)
    losses, pull = jax.vjp(jax.jit(lambda x, t: compute(x, t, **options)), jnp.float32(LOGITS), targets)
    gradient = pull(jnp.ones_like(losses))[0]
    np.testing.assert_array_equal(np.isnan(losses), np.arange(6) == 4)
    np.testing.assert_array_equal(np.isnan(gradient), np.broadcast_to(np.arange(6)[:, None] == 4, (6, 5)))
    others = np.arange(6) != 4
    np.testing.assert_allclose(losses[others], compute(LOGITS, CLASSES, **options)[others], rtol=1e-6)


@pytest.mark.parametrize("compute", EVERY)
def test_no_label_of_a_wide_type_wraps_around_to_a_class(compute):
    compiled = jax.jit(lambda x, t: compute(x, t, ignore_index=-1))
    assert np.isnan(compiled(jnp.float32(LOGITS[:1]), np.array([2**32 - 1], np.uint32))).all()  # as int32: -1
    with jax.enable_x64(True):
        for label in (2**32 + 1, -(2**32) + 2, 2**32 - 1):
            assert np.isnan(compiled(jnp.float32(LOGITS[:1]), np.array([label]))).all()


def test_a_single_logit_tells_0_and_1_apart_and_nothing_else():
    for compute in EVERY[1:]:
        for target in (-1, 2):
            with pytest.raises(ValueError, match=f"integers from 0 to 1 .* got {target}"):
                compute(LOGITS[:, :1], np.full(6, target))
        assert jnp.isnan(jax.jit(compute)(LOGITS[:, :1], np.full(6, 2))).all()


def test_integers_of_the_logits_shape_are_0_and_1_and_of_a_regression_anything():
    wrong = np.where(np.arange(5) == 2, 3, SEVERAL)
    for compute in EVERY[:3]:
        with pytest.raises(ValueError, match=r"integers from 0 to 1 .* got 3"):
            compute(LOGITS, wrong)
    np.testing.assert_allclose(mean_squared_error(LOGITS, wrong), squared(LOGITS, wrong), rtol=1e-5)


def torch_losses(torch, logits, targets, ignore_index, smoothing):
    """torch's loss and gradient of the sum of the images' means over pixels that are not ignored."""
    x = torch.tensor(np.moveaxis(logits, -1, 1), requires_grad=True)
    each = torch.nn.functional.cross_entropy(
        x, torch.tensor(targets, dtype=torch.long), reduction="none", ignore_index=ignore_index,
        label_smoothing=smoothing,
    ).reshape(len(logits), -1)  # fmt: skip
    counted = torch.tensor(targets != ignore_index).reshape(len(logits), -1).sum(1)
    losses = each.sum(1) / counted.clamp(min=1)
    losses.sum().backward()
    return losses.detach(), np.moveaxis(x.grad.numpy(), 1, -1)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("ignore_index", "dtype", "smoothing"),
    [(-1, np.int32, 0.0), (-100, np.int64, 0.1), (255, np.uint8, 0.0), (2, np.int32, 0.1)],
)
def test_ignored_targets_are_torchs(ignore_index, dtype, smoothing):
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    rng = np.random.default_rng(1)
    for logits, targets in ((LOGITS, CLASSES), (MAPS, MAP_CLASSES)):
        targets = np.where(rng.random(targets.shape) < 0.4, ignore_index, targets).astype(dtype)
        targets[0] = ignore_index  # an image of nothing else
        expected, slope = torch_losses(torch, logits, targets, ignore_index, smoothing)

        def losses(x, t):
            return softmax_cross_entropy(x, t, label_smoothing=smoothing, ignore_index=ignore_index)

        for compute in (losses, jax.jit(losses)):
            np.testing.assert_allclose(compute(logits, targets), expected, rtol=1e-5, atol=1e-6)
            gradient = jax.grad(lambda x, c=compute, t=targets: c(x, t).sum())(jnp.float32(logits))
            np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compute", EVERY)
def test_ignored_targets_of_every_loss_are_left_out_whatever_their_outputs(compute):
    targets = MAP_CLASSES.copy()
    targets[0, 0], targets[1, 1:] = 255, 255
    outputs = np.where(targets[..., None] == 255, np.nan, MAPS).astype(np.float32)
    losses, pull = jax.vjp(lambda x: compute(x, targets, ignore_index=255), outputs)
    expected = [compute(MAPS[0, 1:], targets[0, 1:]).mean(), compute(MAPS[1, :1], targets[1, :1]).mean()]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    gradient = np.asarray(pull(jnp.ones_like(losses))[0])
    np.testing.assert_array_equal((gradient == 0).all(-1), targets == 255)


def test_one_of_several_labels_can_be_ignored():
    targets = SEVERAL.copy()
    targets[:, 1] = -1
    for compute in (sigmoid_cross_entropy, sigmoid_focal):
        known = compute(np.delete(LOGITS, 1, 1), np.delete(SEVERAL, 1, 1))
        np.testing.assert_allclose(compute(LOGITS, targets, ignore_index=-1), known, rtol=1e-6)


# ---------------------------------------------------------------- penalties


class Net(nn.Module):
    """Every kind of parameter."""

    def __init__(self, rngs):
        self.conv = nn.Conv(3, 4, 3, rngs=rngs)
        self.depthwise = nn.DepthwiseConv(4, 3, rngs=rngs)
        self.up = nn.ConvTranspose(4, 4, 2, rngs=rngs)
        self.norms = nnx.List([nn.BatchNorm(4), nn.GroupNorm(2, 4), nn.LayerNorm(4)])
        self.dense = nn.Linear(4, 2, rngs=rngs)


def parameters(model):
    return nnx.as_pure(nnx.split(model, nnx.Param, ..., graph=False)[1]).raw_mapping


def chosen(params):
    return {
        jax.tree_util.keystr(path, simple=True, separator=".")
        for path, leaf in jax.tree_util.tree_leaves_with_path(kernel_mask(params))
        if leaf
    }


def test_the_rule_takes_kernels_and_no_bias_and_no_norm():
    model = nnx.eval_shape(lambda: models.create_model("lecture-cnn", num_classes=10))
    layers = ("conv1", "conv2", "conv3", "dense1", "dense2")
    assert chosen(parameters(model)) == {f"{layer}.kernel" for layer in layers}
    assert chosen(parameters(nnx.eval_shape(lambda: Net(nnx.Rngs(0))))) == {
        "conv.kernel",
        "depthwise.kernel",
        "up.kernel",
        "dense.kernel",
    }
    assert chosen({"kernel": jnp.ones(3), "deep": {"kernel": jnp.ones((3, 1)), "scale": jnp.ones((3, 3))}}) == {
        "deep.kernel"
    }


def test_penalties_are_sums_over_kernels_with_their_gradients():
    params = {"a": {"kernel": jnp.array([[1.0, -2.0], [0.0, 3.0]]), "bias": jnp.array([5.0])}, "scale": jnp.ones(4)}
    assert float(l1_penalty(params)) == 6
    assert float(l2_penalty(params)) == 14
    assert float(penalty(0.5, 0.25, params)) == 0.5 * 6 + 0.25 * 14
    slope = jax.grad(lambda params: penalty(0.5, 0.25, params))(params)
    np.testing.assert_array_equal(slope["a"]["kernel"], [[1.0, -1.5], [0.0, 2.0]])  # 0.5 sign w + 0.25 * 2 w
    assert not slope["a"]["bias"].any()
    assert not slope["scale"].any()
    assert penalty(0.0, 0.0, params) == 0


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize(
    ("objective", "compute", "options"),
    [
        (ClassificationLoss(label_smoothing=0.2), softmax_cross_entropy, {"label_smoothing": 0.2}),
        (
            ClassificationLoss("binary-cross-entropy", label_smoothing=0.2),
            sigmoid_cross_entropy,
            {"label_smoothing": 0.2},
        ),
        (ClassificationLoss("focal"), sigmoid_focal, {}),
        (ClassificationLoss("focal", focal_gamma=0.0, focal_alpha=0.5), sigmoid_focal, {"gamma": 0.0, "alpha": 0.5}),
        (ClassificationLoss("mse"), mean_squared_error, {}),
    ],
)
def test_a_loss_by_name_is_the_function_with_its_options(objective, compute, options):
    ours = objective.function()(LOGITS, CLASSES)
    np.testing.assert_array_equal(ours, compute(LOGITS, CLASSES, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "crossentropy"}, "unknown `loss` 'crossentropy': did you mean cross-entropy"),
        ({"loss": "mse", "label_smoothing": 0.1}, "`label_smoothing` is an option of the loss .* or .*, not of mse"),
        ({"focal_gamma": 2.0}, "`focal_gamma` is an option of the loss focal, not of cross-entropy"),
        ({"label_smoothing": 1.0}, "`label_smoothing` must be at least 0 and less than 1, got 1.0"),
        ({"loss": "focal", "focal_gamma": -1.0}, "`focal_gamma` must be at least 0 and finite, got -1.0"),
        ({"loss": "focal", "focal_alpha": 0.0}, "`focal_alpha` must be between 0 and 1, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        ClassificationLoss(**options)
