"""Every network has named heads: what depends on the number of classes, and nothing else, is replaced."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from cnnjax.nn import path_name

AUTOENCODERS = models.list_models(task="reconstruction")
# One with a head whose name depends on an argument, and one with a convolution as its head.
SMALL = {"lecture-fcn": {"hidden": (8,)}, "squeezenet1_1": {}, "resnet20": {}}


def shapes(model):
    """Return the shapes of a network's parameters by name."""
    return {path_name(path): variable.shape for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@pytest.mark.zoo
@pytest.mark.parametrize("name", models.list_models(task="classification"))
def test_heads_are_the_layers_whose_shapes_depend_on_the_classes(name):
    model, other = (nnx.eval_shape(lambda n=n: models.create_model(name, num_classes=n)) for n in (7, 9))
    seven, nine = shapes(model), shapes(other)
    assert {path.rpartition(".")[0] for path in seven if seven[path] != nine[path]} == set(model.heads)
    models.replace_head(model, 9)
    assert shapes(model) == nine


@pytest.mark.parametrize("name", SMALL)
def test_a_new_head_leaves_the_rest_as_it_was(name):
    model = models.create_model(name, num_classes=5, **SMALL[name])
    before = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    models.replace_head(model, 3, seed=1)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if not path_name(path).startswith(model.heads[0]):
            np.testing.assert_array_equal(variable[...], before[path][...])
    model.eval()
    assert jax.eval_shape(model, jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)).shape == (2, 3)


def test_the_seed_decides_the_new_head():
    kernels = []
    for seed in (1, 1, 2):
        model = models.create_model("resnet20", num_classes=5)
        models.replace_head(model, 3, seed=seed)
        kernels.append(np.asarray(model.fc.kernel[...]))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_auxiliary_classifiers_can_be_missing():
    model = nnx.eval_shape(lambda: models.create_model("googlenet", auxiliary=False))
    models.replace_head(model, 3)
    assert (model.fc.out_features, model.aux1, model.aux2) == (3, None, None)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_has_no_head(name):
    with pytest.raises(UserError, match="Autoencoder has no classifier"):
        models.replace_head(models.create_model(name), 3)


def test_a_head_that_is_not_there_is_named():
    model = models.create_model("resnet20", num_classes=5)
    model.heads = ("head",)
    with pytest.raises(UserError, match="heads names 'head', and it has no such layer"):
        models.replace_head(model, 3)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="out_features must be"):
        models.replace_head(models.create_model("resnet20"), 0)
