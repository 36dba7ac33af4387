"""A network of a person's own is one file with a decorator; every function that takes a name then knows it."""

import importlib.util

import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.models import registry

FILE = '''
import jax
from flax import nnx

from cnnjax.models import Module, register
from cnnjax.nn import Conv, GlobalAvgPool, Linear


@register("two_layers", task="counting")
class TwoLayers(Module):
    """A convolution, and a classifier of its averages."""

    heads = ("fc",)

    def __init__(self, *, num_classes: int, in_channels: int, width: int = 8, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, width, 3, padding=1, rngs=rngs)
        self.pool = GlobalAvgPool()
        self.fc = Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.pool(nnx.relu(self.conv(x))))
'''


@pytest.fixture(autouse=True)
def own_registrations(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRATIONS", dict(registry._REGISTRATIONS))


def import_file(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def test_a_network_in_a_file_of_one_s_own_is_known_once_it_is_imported(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    assert "two_layers" not in models.list_models()
    import_file(tmp_path / "mine.py")
    assert models.list_models("two_*") == models.list_models(task="counting") == ["two_layers"]
    model = models.create_model("two_layers", num_classes=5, in_channels=1, width=4)
    assert model(jnp.ones((2, 8, 8, 1))).shape == (2, 5)
    models.replace_head(model, 3)
    assert "Total params: 55" in models.summary(model, (8, 8, 1))
    with pytest.raises(UserError, match="did you mean two_layers"):
        models.create_model("two_layer")


def test_a_name_that_is_registered_twice_is_an_error_with_both_places(tmp_path):
    for name in ("mine", "copy"):
        (tmp_path / f"{name}.py").write_text(FILE)
    for _ in range(2):  # the same file again is no second network
        import_file(tmp_path / "mine.py")
    places = rf"{tmp_path}/mine\.py and in {tmp_path}/copy\.py"
    with pytest.raises(UserError, match=rf"two networks are registered as 'two_layers', in {places}"):
        import_file(tmp_path / "copy.py")


def test_networks_are_listed_by_pattern_and_by_task():
    assert models.list_models("vgg1?") == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert models.list_models(task="reconstruction") == ["conv_autoencoder", "denoising_autoencoder"]
    assert models.list_models("no_such_*") == models.list_models(task="no such task") == []
    assert models.list_models("resnet1?", "classification") == ["resnet18"]


def test_the_reference_of_a_network_is_named_with_its_library():
    references = {name: registry.lookup(name).reference for name in ("resnet18", "mnasnet", "xception", "zfnet")}
    assert references == {
        "resnet18": "torchvision/resnet18",
        "mnasnet": "torchvision/mnasnet1_0",
        "xception": "timm/legacy_xception",
        "zfnet": None,
    }
