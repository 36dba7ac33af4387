"""Optimisers, schedules, accumulation and averages are what their formulas say, and hold wherever a step runs."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from cnnjax import train
from cnnjax.errors import UserError
from cnnjax.train.averages import AverageState, averaged_params
from cnnjax.train.checkpoints import Checkpoints
from cnnjax.train.optimizers import OPTIMIZERS, Optimization, learning_rate, make_optimizer
from cnnjax.train.schedules import SCHEDULES

SHAPES = {
    "conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "depthwise": {"kernel": (3, 3, 1, 4)},
    "norm": {"scale": (4,), "bias": (4,)},
    "dense": {"kernel": (6, 5), "bias": (5,)},
}
EVERYTHING = {"schedule": "cosine", "warmup_epochs": 1, "clip_norm": 1.0, "accumulate": 2, "ema": 0.9}


def normal(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(rng.standard_normal, SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))


PARAMS, TARGET = normal(0), normal(1)


def gradient(params, step):
    """Of a quadratic with its least value at TARGET, and noise."""
    return jax.tree.map(lambda p, t, n: p - t + 0.3 * n, params, TARGET, normal(10 + step))


def run(optimization, steps=10, params=PARAMS, grad=gradient, start=0, state=None):
    """Parameters after every step, and the last state."""
    return run_optax(make_optimizer(optimization, 10, 3), steps, params, grad, start, state)


def run_optax(optimizer, steps=10, params=PARAMS, grad=gradient, start=0, state=None):
    params = jax.tree.map(jnp.asarray, params)
    state = jax.jit(optimizer.init)(params) if state is None else state
    update, path = jax.jit(optimizer.update), []
    for step in range(start, start + steps):
        updates, state = update(grad(jax.tree.map(np.asarray, params), step), state, params)
        params = jax.tree.map(np.add, params, updates)
        path.append(params)
    return path, state


# ---------------------------------------------------------------- every optimiser against its rule


def no_memory(g, memory, t):
    return g


def velocity(momentum, nesterov=False):
    def direction(g, memory, t):
        memory["v"] = momentum * memory.get("v", 0) + g
        return g + momentum * memory["v"] if nesterov else memory["v"]

    return direction


def adam(eps):
    def direction(g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["s"] = 0.999 * memory.get("s", 0) + 0.001 * g**2
        return memory["m"] / (1 - 0.9**t) / (np.sqrt(memory["s"] / (1 - 0.999**t)) + eps)

    return direction


def keras_rmsprop(g, memory, t):
    memory["s"] = 0.9 * memory.get("s", 0) + 0.1 * g**2
    return g / np.sqrt(memory["s"] + 1e-7)


def torch_rmsprop(g, memory, t):
    memory["s"] = 0.99 * memory.get("s", 0) + 0.01 * g**2
    return g / (np.sqrt(memory["s"]) + 1e-8)


def lion(g, memory, t):
    m = memory.get("m", 0)
    memory["m"] = 0.99 * m + 0.01 * g
    return np.sign(0.9 * m + 0.1 * g)


def muon(g, memory, t):
    if g.ndim < 2 or g.shape[-2] == 1:
        return adam(1e-7)(g, memory, t)
    x = velocity(0.95, nesterov=True)(g, memory, t).reshape(-1, g.shape[-1])
    x /= np.linalg.norm(x)
    for _ in range(5):
        gram = x.T @ x
        x = 3.4445 * x - 4.7750 * x @ gram + 2.0315 * x @ gram @ gram
    return 0.2 * np.sqrt(max(x.shape)) * x.reshape(g.shape)


def trust_ratio(update, param):
    return update * np.linalg.norm(param) / np.linalg.norm(update)


# name: direction, learning rate, weight decay of kernels, and what is done with their sum
RULES = {
    "sgd": (no_memory, 0.01, 0),
    "momentum": (velocity(0.9), 0.01, 0),
    "nesterov": (velocity(0.9, nesterov=True), 0.01, 0),
    "adam": (adam(1e-7), 0.001, 0),
    "adam-torch": (adam(1e-8), 0.001, 0),
    "adamw": (adam(1e-7), 0.001, 0.004),
    "adamw-torch": (adam(1e-8), 0.001, 0.01),
    "rmsprop": (keras_rmsprop, 0.001, 0),
    "rmsprop-torch": (torch_rmsprop, 0.01, 0),
    "lion": (lion, 0.0001, 0.001),
    "lamb": (adam(1e-6), 0.001, 0, trust_ratio),
    "muon": (muon, 0.001, 0.004),
}


def follow(direction, lr, decay, finish=lambda update, param: update, steps=10):
    params, memories = PARAMS, jax.tree.map(lambda _: {}, PARAMS)
    for step in range(steps):

        def updated(param, g, memory, step=step):
            update = direction(g, memory, step + 1) + (decay * param if param.ndim > 1 else 0)
            return param - lr * finish(update, param)

        params = jax.tree.map(updated, params, gradient(params, step), memories)
    return params


def assert_moved_alike(params, expected, rtol):
    """Relative to how far the parameters moved."""
    for ours, theirs, start in zip(*map(jax.tree.leaves, (params, expected, PARAMS)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * np.abs(theirs - start).max())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_are_those_of_the_published_rule(name):
    with jax.enable_x64(True):
        path, _ = run(Optimization(optimizer=name))
        assert_moved_alike(path[-1], follow(*RULES[name]), 1e-6 if name == "muon" else 1e-9)


@pytest.mark.parametrize(
    ("chosen", "rule"),
    [
        ({"optimizer": "momentum", "momentum": 0.5, "weight_decay": 0.1}, (velocity(0.5), 0.01, 0.1)),
        ({"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.0}, (adam(1e-7), 0.1, 0)),
        ({"optimizer": "lamb", "weight_decay": 0.1}, (adam(1e-6), 0.001, 0.1, trust_ratio)),
        (
            {"optimizer": "rmsprop", "momentum": 0.9},
            (lambda g, memory, t: velocity(0.9)(keras_rmsprop(g, memory, t), memory, t), 0.001, 0),
        ),
    ],
)
def test_options_replace_defaults(chosen, rule):
    with jax.enable_x64(True):
        path, _ = run(Optimization(**chosen))
        assert_moved_alike(path[-1], follow(*rule), 1e-9)


def as_matrix(kernel):
    """A kernel as torch's Muon takes it: (out, in)."""
    return kernel.reshape(-1, kernel.shape[-1]).T


# name: the optimiser of torch, its options where they are not torch's own, and the tolerance
TORCH = {
    "sgd": ("SGD", {"lr": 0.01}, 1e-9),
    "momentum": ("SGD", {"lr": 0.01, "momentum": 0.9}, 1e-9),
    "nesterov": ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}, 1e-9),
    "adam": ("Adam", {"eps": 1e-7}, 1e-9),
    "adam-torch": ("Adam", {}, 1e-9),
    "adamw": ("AdamW", {"eps": 1e-7, "weight_decay": 0.004}, 1e-9),
    "adamw-torch": ("AdamW", {}, 1e-9),
    "rmsprop-torch": ("RMSprop", {}, 1e-9),
    "muon": ("Muon", {"weight_decay": 0.004, "adjust_lr_fn": "match_rms_adamw"}, 0.03),  # torch computes in bfloat16
}


@pytest.mark.parity
@pytest.mark.parametrize("name", TORCH)
def test_ten_steps_are_those_of_torch(name):
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    kind, options, tolerance = TORCH[name]
    shown = as_matrix if kind == "Muon" else lambda kernel: kernel
    kernels = {"conv": PARAMS["conv"]["kernel"], "dense": PARAMS["dense"]["kernel"]}
    theirs = {key: torch.nn.Parameter(torch.tensor(shown(kernel).copy())) for key, kernel in kernels.items()}
    optimizer = getattr(torch.optim, kind)(theirs.values(), **options)
    for step in range(10):
        for key, param in theirs.items():
            noise = torch.tensor(shown(normal(10 + step)[key]["kernel"]).copy())
            param.grad = param.detach() - torch.tensor(shown(TARGET[key]["kernel"]).copy()) + 0.3 * noise
        optimizer.step()
    with jax.enable_x64(True):
        path, _ = run(Optimization(optimizer=name))
    for key, param in theirs.items():
        moved = shown(np.asarray(path[-1][key]["kernel"])) - shown(kernels[key])
        expected = param.detach().numpy() - shown(kernels[key])
        np.testing.assert_allclose(moved, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_default_is_optax_adam_with_the_same_state_and_bits():
    path, state = run(Optimization())
    expected_path, expected = run_optax(optax.adam(1e-3, eps=1e-7))
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for ours, theirs in zip(*map(jax.tree.leaves, ((path, state), (expected_path, expected))), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------- weight decay acts on kernels


def test_without_gradients_only_kernels_decay():
    ones = jax.tree.map(np.ones_like, PARAMS)
    zeros = lambda params, step: jax.tree.map(np.zeros_like, params)  # noqa: E731
    (after,), _ = run(Optimization(optimizer="sgd", lr=0.5, weight_decay=0.2), 1, ones, zeros)
    for path, param in jax.tree_util.tree_leaves_with_path(after):
        assert (param == (np.float32(0.9) if path[-1].key == "kernel" else 1)).all(), path


# ---------------------------------------------------------------- schedules


def cosine(share):
    return 0.05 * (1 + math.cos(math.pi * share))


@pytest.mark.parametrize(
    ("options", "points"),
    [
        ({}, {0: 0.1, 89: 0.1}),
        ({"schedule": "step"}, {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001}),
        ({"schedule": "step", "decay_rate": 0.5, "decay_epochs": 2.5}, {24: 0.1, 25: 0.05, 49: 0.05, 50: 0.025}),
        ({"schedule": "exponential"}, {0: 0.1, 15: 0.1 * 10**-0.5, 30: 0.01, 60: 0.001}),
        ({"schedule": "exponential", "decay_rate": 0.5, "decay_epochs": 1}, {0: 0.1, 10: 0.05, 25: 0.1 * 0.5**2.5}),
        ({"schedule": "cosine"}, {0: 0.1, 30: 0.075, 45: 0.05, 60: 0.025, 89: cosine(89 / 90)}),
        ({"schedule": "one-cycle"}, {0: 0.004, 13: 0.052, 26: 0.1, 89: 4e-7, 200: 4e-7}),
        ({"warmup_epochs": 2}, {0: 0.005, 1: 0.01, 18: 0.095, 19: 0.1, 20: 0.1, 89: 0.1}),
        ({"warmup_epochs": 0.01}, {0: 0.1, 1: 0.1}),
        ({"schedule": "cosine", "warmup_epochs": 1}, {0: 0.01, 9: 0.1, 10: 0.1, 50: 0.05, 89: cosine(79 / 80)}),
        ({"schedule": "step", "warmup_epochs": 3}, {29: 0.1, 30: 0.1, 49: 0.1, 50: 0.01, 69: 0.01, 70: 0.001}),
        # Updates happen at the end of every second step, with the rate of their number.
        ({"schedule": "step", "accumulate": 2}, {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001}),
        (
            {"schedule": "cosine", "accumulate": 2},
            {0: 0.1, 1: 0.1, 2: cosine(2 / 90), 3: cosine(2 / 90), 45: cosine(44 / 90)},
        ),
        ({"warmup_epochs": 2, "accumulate": 2}, {0: 0.01, 1: 0.01, 2: 0.02, 18: 0.1, 20: 0.1}),
    ],
)
def test_schedules_pass_through_the_points_of_their_formulas(options, points):
    chosen = Optimization(lr=0.1, **options)
    at = jax.jit(lambda step: learning_rate(chosen, 10, 9, step))
    for step, expected in points.items():
        assert float(learning_rate(chosen, 10, 9, step)) == pytest.approx(expected, rel=2e-6, abs=1e-8), step
        assert float(at(step)) == pytest.approx(expected, rel=2e-6, abs=1e-8), step


def torch_schedule(torch, optimizer, schedule, updates, warmup, decay):
    """The namesake, after a linear warm-up where there is one."""
    rates, left = torch.optim.lr_scheduler, updates - warmup
    after = {
        "constant": lambda: rates.ConstantLR(optimizer, 1.0),
        "step": lambda: rates.StepLR(optimizer, decay, 0.5),
        "exponential": lambda: rates.ExponentialLR(optimizer, 0.5 ** (1 / decay)),
        "cosine": lambda: rates.CosineAnnealingLR(optimizer, left),
        "one-cycle": lambda: rates.OneCycleLR(optimizer, 0.1, total_steps=updates),
    }[schedule]
    if not warmup:
        return after()
    rising = rates.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1)
    return rates.SequentialLR(optimizer, [rising, after()], [warmup])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("schedule", "warmup"),
    [(name, warmup) for name, kind in SCHEDULES.items() for warmup in (0, 3)[: 1 + ("warmup_epochs" in kind.options)]],
)
def test_schedules_are_torchs_at_every_length(schedule, warmup):
    torch = pytest.importorskip("torch", reason="the parity extra is not installed")
    decaying = schedule in ("step", "exponential")
    for updates in range(1 if schedule == "one-cycle" else warmup + 2, 51):
        decay = max((updates - warmup) // 3, 1)
        options = {"decay_rate": 0.5, "decay_epochs": decay} if decaying else {}
        if warmup:
            options["warmup_epochs"] = warmup
        chosen = Optimization(optimizer="sgd", lr=0.1, schedule=schedule, **options)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        theirs, expected = torch_schedule(torch, optimizer, schedule, updates, warmup, decay), []
        for step in range(updates):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if step < updates - 1:
                theirs.step()
        ours = learning_rate(chosen, 1, updates, np.arange(50))  # of one shape: compiled once
        ours = np.broadcast_to(ours, 50)[:updates]
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9, err_msg=f"{updates} updates")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_moves_by_the_learning_rate_that_is_logged(schedule, accumulate):
    chosen = Optimization(optimizer="sgd", lr=0.1, schedule=schedule, accumulate=accumulate)
    path, _ = run(chosen, 30, np.zeros(()), lambda params, step: jnp.float32(-1))
    moves = np.diff([0, *map(float, path)])
    rates = np.array([float(learning_rate(chosen, 10, 3, step)) for step in range(30)])
    updating = np.arange(30) % accumulate == accumulate - 1
    np.testing.assert_allclose(moves, np.where(updating, rates, 0), atol=1e-7)


@pytest.mark.parametrize("lr", [None, 0.03])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_logged_rate_is_the_chosen_or_the_optimisers_own(name, lr):
    expected = RULES[name][1] if lr is None else lr
    assert float(learning_rate(Optimization(optimizer=name, lr=lr), 10, 9, 7)) == np.float32(expected)


# ---------------------------------------------------------------- clipping, accumulation, averages


@pytest.mark.parametrize(("norm", "moved"), [(0.5, 0.5), (2.0, 2.0), (8.0, 2.0)])
def test_a_gradient_longer_than_clip_norm_is_scaled_to_it(norm, moved):
    """All parameters together, and no direction changes."""
    direction = {"a": np.array([3.0, 0.0], np.float32) / 5, "b": np.array([4.0], np.float32) / 5}
    start = jax.tree.map(np.zeros_like, direction)
    grad = lambda params, step: jax.tree.map(lambda d: norm * d, direction)  # noqa: E731
    (after,), _ = run(Optimization(optimizer="sgd", lr=1.0, clip_norm=2.0), 1, start, grad)
    for name, part in direction.items():
        np.testing.assert_allclose(after[name], -moved * part, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_accumulated_batches_are_one_large_batch(name):
    """Of three batches of four images, with clipping, weight decay, a schedule and an average."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 12, 6)), rng.standard_normal((2, 12, 5))
    options = {"optimizer": name, "weight_decay": 0.1, "clip_norm": 0.5, "ema": 0.5, "schedule": "cosine"}

    def loss(params, x, y):
        return jnp.mean((x @ params["kernel"] + params["bias"] - y) ** 2)

    slope = jax.jit(jax.grad(loss))

    def large(params, step):
        return slope(params, x[step], y[step])

    def small(params, step):
        batch, third = divmod(step, 3)
        return slope(params, x[batch][4 * third : 4 * third + 4], y[batch][4 * third : 4 * third + 4])

    whole, whole_state = run(Optimization(**options), 2, PARAMS["dense"], large)
    # The schedules are of 30 updates each.
    optimizer = make_optimizer(Optimization(**options, accumulate=3), 30, 3)
    params = jax.tree.map(jnp.asarray, PARAMS["dense"])
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(6):
        before = params
        updates, state = update(small(params, step), state, params)
        params = optax.apply_updates(params, updates)
        if step % 3 < 2:
            jax.tree.map(np.testing.assert_array_equal, params, before)
    for key in params:
        np.testing.assert_allclose(params[key], whole[-1][key], rtol=1e-5, atol=1e-6)
        average, expected = averaged_params(state, None)[key], averaged_params(whole_state, None)[key]
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_weighs_each_update_by_powers_of_the_decay(decay):
    path, state = run(Optimization(ema=decay), 7)
    weights = decay ** np.arange(6, -1, -1.0)
    for ours, *values in zip(*map(jax.tree.leaves, (averaged_params(state, None), *path)), strict=True):
        expected = np.average(np.asarray(values, np.float64), 0, weights)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_before_the_first_update_the_average_is_the_initial_parameters():
    optimizer = make_optimizer(Optimization(ema=0.9, accumulate=2), 10, 1)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    jax.tree.map(np.testing.assert_array_equal, averaged_params(state, None), params)
    _, state = jax.jit(optimizer.update)(gradient(PARAMS, 0), state, params)
    jax.tree.map(np.testing.assert_array_equal, averaged_params(state, None), params)


def test_the_average_changes_no_update():
    with_average, _ = run(Optimization(ema=0.9))
    without, state = run(Optimization())
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), with_average[-1], without[-1])
    assert averaged_params(state, without[-1]) is without[-1]


# ---------------------------------------------------------------- states


def test_a_saved_state_goes_on_to_the_same_bits(tmp_path):
    chosen = Optimization(optimizer="muon", **EVERYTHING)
    whole, _ = run(chosen, 7)
    path, state = run(chosen, 3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(train.TrainState(jnp.int32(3), path[-1], {}, state, {}))
    like = train.TrainState(jnp.int32(0), path[-1], {}, make_optimizer(chosen, 10, 3).init(path[-1]), {})
    restored = checkpoints.restore(like)
    checkpoints.close()
    assert jax.tree.structure(restored.opt_state) == jax.tree.structure(state)
    resumed, _ = run(chosen, 4, restored.params, start=3, state=restored.opt_state)
    jax.tree.map(np.testing.assert_array_equal, resumed[-1], whole[-1])


@pytest.mark.parametrize("name", ["lamb", "muon"])
def test_replicas_with_summed_gradients_stay_one_network(name):
    optimizer = make_optimizer(Optimization(optimizer=name, **EVERYTHING), 10, 3)
    params = jax.tree.map(jnp.asarray, PARAMS)
    shares = jnp.arange(1, 9) / 36

    def replica(share, params):
        state = optimizer.init(params)
        for step in range(2):
            grads = jax.lax.psum(jax.tree.map(lambda g: share[0] * g, gradient(params, step)), "data")
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(lambda leaf: leaf[None], (params, averaged_params(state, params)))

    mesh, split = Mesh(np.array(jax.devices()[:8]), ("data",)), PartitionSpec("data")
    spread = jax.shard_map(replica, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split, check_vma=False)
    every, averages = jax.jit(spread)(shares, params)
    path, state = run(Optimization(optimizer=name, **EVERYTHING), 2)
    for ours, expected in ((every, path[-1]), (averages, averaged_params(state, None))):
        for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
            assert (a == a[0]).all()
            np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6)


def test_seeds_train_side_by_side_under_vmap():
    optimizer = make_optimizer(Optimization(optimizer="muon", **EVERYTHING), 10, 3)

    def train_one(params):
        state = optimizer.init(params)
        for step in range(2):
            updates, state = optimizer.update(gradient(params, step), state, params)
            params = optax.apply_updates(params, updates)
        return params, averaged_params(state, params)

    seeds = [jax.tree.map(jnp.asarray, normal(seed)) for seed in (0, 5)]
    together = jax.jit(jax.vmap(train_one))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds))
    alone = jax.jit(train_one)(seeds[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-4, atol=1e-6), together, alone)


def test_parameters_and_their_average_can_be_donated_together():
    optimizer = make_optimizer(Optimization(ema=0.9), 10, 3)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    average = next(part for part in state if isinstance(part, AverageState)).average
    for kept, param in zip(*map(jax.tree.leaves, (average, params)), strict=True):
        assert kept is not param
        assert kept.unsafe_buffer_pointer() != param.unsafe_buffer_pointer()


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adm"}, "unknown `optimizer` 'adm': did you mean .*adam"),
        ({"schedule": "cosin"}, "unknown `schedule` 'cosin': did you mean cosine"),
        ({"lr": 0.0}, "`lr` must be larger than 0 and finite, got 0.0"),
        ({"lr": math.nan}, "`lr` must be larger than 0 and finite, got nan"),
        ({"lr": math.inf}, "`lr` must be larger than 0 and finite, got inf"),
        ({"lr": "0.1"}, "`lr` must be larger than 0 and finite, got '0.1'"),
        ({"optimizer": "sgd", "momentum": 0.9}, "`momentum` is an option of the optimiser momentum or .*, not of sgd"),
        ({"optimizer": "momentum", "momentum": 1.0}, "`momentum` must be at least 0 and less than 1, got 1.0"),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0 and finite, got -0.1"),
        ({"decay_rate": 0.1}, "`decay_rate` is an option of the schedule step or exponential, not of constant"),
        ({"schedule": "cosine", "decay_epochs": 2.0}, "`decay_epochs` is an option of .*, not of cosine"),
        ({"schedule": "step", "decay_rate": 1.0}, "`decay_rate` must be between 0 and 1, got 1.0"),
        ({"schedule": "step", "decay_epochs": 0.0}, "`decay_epochs` must be larger than 0 and finite, got 0.0"),
        ({"schedule": "one-cycle", "warmup_epochs": 1.0}, "`warmup_epochs` is an option of .*, not of one-cycle"),
        ({"warmup_epochs": -1.0}, "`warmup_epochs` must be at least 0 and finite, got -1.0"),
        ({"clip_norm": 0.0}, "`clip_norm` must be larger than 0 and finite, got 0.0"),
        ({"accumulate": 0}, "`accumulate` must be an integer of at least 1, got 0"),
        ({"accumulate": 1.5}, "`accumulate` must be an integer of at least 1, got 1.5"),
        ({"accumulate": None}, "`accumulate` must be an integer of at least 1, got None"),
        ({"ema": 1.0}, "`ema` must be between 0 and 1, got 1.0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Optimization(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_epochs": 3.0}, "`warmup_epochs` must be less than the 3 epochs of the training, got 3.0"),
        (
            {"schedule": "step", "decay_epochs": 3.0},
            "`decay_epochs=3.0` after 0 epochs of warm-up is no step within the 3",
        ),
        ({"accumulate": 31}, "`accumulate=31` is more than the 30 steps of the training"),
    ],
)
def test_what_does_not_fit_into_the_training_is_refused(options, message):
    for make in (make_optimizer, partial(learning_rate, step=0)):
        with pytest.raises(UserError, match=re.escape(message)):
            make(Optimization(**options), 10, 3)
