"""With the same weights, networks compute what torchvision's and timm's compute."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from experiments.bench import references

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
# Large, and of layers and blocks that test_keras.py and test_torch_training.py compare.
LARGE = ("vgg11_bn", "efficientnet_v2_s")
NAMES = [
    name if name in references.FAMILIES and name not in LARGE else pytest.param(name, marks=pytest.mark.zoo)
    for name in models.list_models(task="classification")  # test_torch_segmentation.py has the others
    if references.has_reference(name)
]


@pytest.mark.parametrize("name", NAMES)
def test_eval_logits_are_the_references(name):
    import torch

    reference = references.build(name).eval()
    model = nnx.eval_shape(lambda: models.create_model(name))  # without initial values
    interop.load_torch(model, reference.state_dict())
    assert models.count_params(model) == sum(p.numel() for p in reference.parameters())
    model.eval()
    x = references.images(name)
    with torch.no_grad():
        theirs = reference(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    graphdef, state = nnx.split(model)  # arguments of the program, not constants in it
    ours = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    exported = interop.to_torch(model)
    for key, value in reference.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(exported.pop(key), value.numpy())
    assert not exported
