"""Weights as training scripts save them: in an entry, under names of wrappers, in any float type."""

import re
from importlib.util import find_spec

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from cnnjax import interop, models
from cnnjax.errors import UserError
from cnnjax.interop.entries import weights_in
from cnnjax.interop.slots import slots

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
OPTIMIZER = {"state": {0: {"step": np.float32(3), "exp_avg": np.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def empty(name="resnet20"):
    return nnx.eval_shape(lambda: models.create_model(name, num_classes=10))


def filled(name="resnet20"):
    """The state dict of a network whose arrays all differ, of numbers that every float type holds."""
    model, generator = empty(name), np.random.default_rng(0)
    for _, slot in slots(model):
        slot.fill(generator.integers(-100, 100, slot.shape))
    return interop.to_torch(model)


@pytest.fixture(scope="module")
def state():
    return filled()


def loaded(state, name="resnet20", **options):
    model = empty(name)
    interop.load_torch(model, state, **options)
    return interop.to_torch(model)


def assert_equal(ours, expected):
    assert ours.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(ours[key], array, err_msg=key)


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.module.",
     "student.backbone."],
)  # fmt: skip
def test_words_before_all_names_are_removed(state, prefix):
    assert_equal(loaded(prefixed(state, prefix)), state)


def test_words_of_wrappers_within_names_are_removed(state):
    inner = {re.sub(r"^(layer\d)\.", r"\1._orig_mod.", key): value for key, value in state.items()}
    inner = {re.sub(r"\.(conv\d)\.", r".\1._checkpoint_wrapped_module.", key): value for key, value in inner.items()}
    assert_equal(loaded(prefixed(inner, "module.")), state)


def test_a_prefix_that_is_also_a_layers_name_is_removed():
    features = filled("squeezenet1_1")
    assert_equal(loaded(prefixed(features, "features."), "squeezenet1_1"), features)


@pytest.mark.parametrize("counters", [True, False])
def test_torchs_counters_may_be_there_or_not(state, counters):
    if counters:
        batches = {key.replace("running_mean", "num_batches_tracked"): np.int64(7) for key in state if "mean" in key}
        averaged = prefixed(state | batches, "module.") | {"n_averaged": np.int64(5)}  # AveragedModel's
        assert_equal(loaded(averaged), state)
    assert_equal(loaded(state), state)


@pytest.mark.parametrize(
    "entry",
    ["state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "ema_state_dict", "net", "weights",
     "params", "anything", "ema.state_dict"],
)  # fmt: skip
def test_weights_in_an_entry_beside_others_are_found(state, entry):
    outer, _, inner = entry.partition(".")
    saved = {
        "epoch": 3, "best_acc1": np.float32(0.7), "arch": "resnet20", "optimizer": OPTIMIZER,
        "optimizer_state_dict": {}, "scheduler": {"last_lr": np.ones(2)}, "scaler": {"scale": np.float32(1)},
        "hyper_parameters": {"class_weights": np.ones(10)}, "class_weights": np.ones(10),
        outer: {inner: state} if inner else state,
    }  # fmt: skip
    assert_equal(loaded(saved), state)
    assert_equal(loaded(saved, entry=entry), state)


def test_of_several_entries_with_weights_one_has_to_be_chosen(state):
    other = {key: value + 1 for key, value in state.items()}
    saved = {"state_dict": state, "state_dict_ema": prefixed(other, "module."), "epoch": 1}
    with pytest.raises(UserError, match=r"several entries, state_dict, state_dict_ema: .*`entry='state_dict_ema'`"):
        loaded(saved)
    assert_equal(loaded(saved, entry="state_dict"), state)
    assert_equal(loaded(saved, entry="state_dict_ema"), other)
    with pytest.raises(UserError, match=r"no weights in the entry 'ema'; entries with weights are state_dict, state_d"):
        loaded(saved, entry="ema")
    with pytest.raises(UserError, match="none: it is a state dict itself"):
        loaded(state, entry="ema")


def test_names_beside_those_of_the_network_are_ignored_only_when_a_prefix_is_given(state):
    lightning = {
        **prefixed(state, "net.model."), "criterion.weight": np.ones(10), "net.metric.total": np.ones(1)
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"not in the model: .*; those under 'net.model' fit: give `prefix='net.model'"
    ):
        loaded({"state_dict": lightning})
    for prefix in ("net.model", "net.model."):
        assert_equal(loaded({"state_dict": lightning}, prefix=prefix), state)
    with pytest.raises(UserError, match=r"no name begins with `prefix='model'`: there are net.model"):
        loaded(lightning, prefix="model")


def test_every_key_is_still_used_once(state):
    first, *_ = state
    for change in (lambda d: d.pop(first), lambda d: d.update({"extra.weight": np.ones(1)})):
        for prefix in ("", "module."):
            changed = dict(state)
            change(changed)
            with pytest.raises(ValueError, match=rf"(missing: {first}$)|(not in the model: (module\.)?extra.weight$)"):
                loaded(prefixed(changed, prefix))
    with pytest.raises(ValueError, match=f"two names stand for one array: {first}"):
        loaded({**state, f"module.{first}": state[first]})


def test_names_of_the_densenets_of_2017_are_understood():
    state = filled("densenet121")
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): array for key, array in state.items()}
    assert sum(key not in state for key in old) == 58 * (4 + 4 + 2)  # two norms and two kernels a layer
    assert_equal(loaded(prefixed(old, "module."), "densenet121"), state)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_arrays_of_other_float_types_are_converted(state, dtype, tmp_path):
    other = {key: array.astype(dtype) for key, array in state.items()}
    assert_equal(loaded(other), state)
    save_file(prefixed(other, "module."), tmp_path / "x.safetensors")
    model = empty()
    interop.load_safetensors(model, tmp_path / "x.safetensors")
    assert_equal(interop.to_torch(model), state)
    assert all(slot.variable[...].dtype == jnp.float32 for _, slot in slots(model))


def test_integers_are_no_weights(state):
    """The scales of quantised ones are elsewhere: without them it would be another network."""
    quantised = state | {"layer1.0.conv1.weight": state["layer1.0.conv1.weight"].astype(np.int8)}
    with pytest.raises(ValueError, match=r"of integers, as if quantised: layer1\.0\.conv1\.weight int8$"):
        loaded(quantised)


@needs_torch
@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_checkpoint_of_torch_of_any_float_type_is_read(state, dtype, tmp_path):
    import torch

    weights = {f"module.{key}": torch.tensor(array).to(getattr(torch, dtype)) for key, array in state.items()}
    torch.save({"epoch": 1, "model_ema": weights, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "x.pth")
    model = empty()
    interop.load_pth(model, tmp_path / "x.pth")
    assert_equal(interop.to_torch(model), state)
    torch.save({"a": weights, "b": weights}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth: there are weights in several entries, a, b: .*`entry='b'`"):
        interop.load_pth(model, tmp_path / "x.pth")
    interop.load_pth(model, tmp_path / "x.pth", entry="a")


@needs_torch
@pytest.mark.parity
def test_torchs_own_wrappers_are_understood(tmp_path):
    import torch

    from experiments.bench import references

    reference = references.build("shufflenet_v2_x0_5")
    wrapped = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(reference))
    torch.save(wrapped.state_dict(), tmp_path / "x.pth")
    model = nnx.eval_shape(lambda: models.create_model("shufflenet_v2_x0_5"))
    interop.load_pth(model, tmp_path / "x.pth")
    theirs = {key: value.numpy() for key, value in reference.state_dict().items() if "num_batches" not in key}
    assert_equal(interop.to_torch(model), theirs)


@pytest.mark.parametrize(("source", "target"), [("plain20", "resnet20"), ("resnet20", "plain20")])
def test_a_file_of_another_network_of_the_same_shapes_is_refused(source, target, tmp_path):
    interop.save_safetensors(models.create_model(source, num_classes=10), tmp_path / "x.safetensors")
    with pytest.raises(
        UserError, match=r"residual is (False|True), where the model has (True|False): .*another network"
    ):
        interop.load_safetensors(empty(target), tmp_path / "x.safetensors")


def test_what_is_no_mapping_of_names_is_said(state):
    for saved in ([state], {0: np.ones(3)}):
        with pytest.raises(UserError, match="a state dict maps names to arrays"):
            weights_in(saved)
