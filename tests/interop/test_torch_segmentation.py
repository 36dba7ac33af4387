"""With the same weights, networks for segmentation compute what torchvision's compute, also in training.

Images are of a size that no stride divides, so that maps which are stretched otherwise than torchvision's are seen.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.models.deeplab import Segmenter, deeplab_head, fcn_head
from cnnjax.models.resnet import Bottleneck, ResNet
from cnnjax.nn import Dropout, Identity, replace_module
from experiments.bench import references

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
NAMES = [name for name in models.list_models(task="segmentation") if references.has_reference(name)]
QUICK = ("lraspp_mobilenet_v3_large",)  # the others' layers are those of the shallow ones below
CLASSES = 5
DEPTHS = (1, 1, 1, 2)  # of a shallow ResNet: with blocks of each dilation
NOTHING = 1e-4  # gradients below are rounding: what is added before a batch normalisation makes no difference


def images(height, width):
    return np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)


def channels_last(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def test_all_of_torchvision_s_networks_are_there():
    from experiments.bench import torchvision_without_ops  # noqa: F401, I001
    import torchvision.models

    theirs = torchvision.models.list_models(module=torchvision.models.segmentation)
    assert sorted(theirs) == sorted(NAMES)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.zoo) for name in NAMES]
)
def test_eval_logits_are_torchvision_s(name):
    import torch

    reference = references.build(name, num_classes=CLASSES).eval()
    model = nnx.eval_shape(lambda: models.create_model(name, num_classes=CLASSES))
    interop.load_torch(model, reference.state_dict())
    model.eval()
    x = images(65, 97)
    with torch.no_grad():
        theirs = channels_last(reference(torch.from_numpy(x).permute(0, 3, 1, 2))["out"])
    graphdef, state = nnx.split(model)
    ours = np.asarray(jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x))
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
def test_weights_have_torchvision_s_keys_and_go_back_unchanged(name):
    state = references.build(name).state_dict()
    model = nnx.eval_shape(lambda: models.create_model(name))
    interop.load_torch(model, state)
    exported = interop.to_torch(model)
    for key, value in state.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(exported.pop(key), value.numpy())
    assert not exported


def without_dropout(model):
    for path, layer in list(nnx.iter_modules(model)):
        if isinstance(layer, Dropout):
            replace_module(model, path, Identity())
    return model


def shallow(kind):
    """Return one of torchvision's networks on a ResNet of a few blocks, here and there."""
    from experiments.bench import torchvision_without_ops  # noqa: F401, I001
    from torchvision.models import resnet
    from torchvision.models.segmentation import deeplabv3, fcn

    builder = lambda **options: ResNet(Bottleneck, DEPTHS, **options)  # noqa: E731
    head = {"fcn": fcn_head, "deeplabv3": deeplab_head}[kind]
    model = nnx.eval_shape(lambda: Segmenter(head, builder, num_classes=CLASSES, in_channels=3, rngs=nnx.Rngs(0)))
    theirs = {"fcn": fcn._fcn_resnet, "deeplabv3": deeplabv3._deeplabv3_resnet}[kind]

    def build():
        backbone = resnet.ResNet(resnet.Bottleneck, DEPTHS, replace_stride_with_dilation=[False, True, True])
        return theirs(backbone, CLASSES, True)

    return without_dropout(model), references.randomised(build)


def whole(name):
    model = nnx.eval_shape(lambda: models.create_model(name, num_classes=CLASSES))
    return without_dropout(model), references.build(name, num_classes=CLASSES)


@pytest.mark.parametrize(
    "name",
    [
        "deeplabv3",
        pytest.param("fcn", marks=pytest.mark.zoo),
        *(pytest.param(name, marks=pytest.mark.zoo) for name in NAMES if "101" not in name),
    ],
)
def test_a_training_step_is_torchvision_s(name):
    """All logits, the gradients of a loss of both heads by every parameter, and the running statistics afterwards.

    Whole networks in float64, in which XLA:CPU takes minutes.
    """
    import torch

    double = name not in ("fcn", "deeplabv3")
    dtype = np.float64 if double else np.float32
    x = images(33, 41).astype(dtype)
    cotangents = [np.random.default_rng(n).standard_normal((*x.shape[:3], CLASSES)).astype(dtype) for n in (1, 2)]
    with jax.enable_x64(double):
        model, reference = whole(name) if double else shallow(name)
        reference = reference.to(torch.float64 if double else torch.float32).train()
        interop.load_torch(model, reference.state_dict())
        model.train()
        ours, arrays = training_step(model, x, cotangents)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    outputs = list(reference(torch.from_numpy(x).permute(0, 3, 1, 2)).values())
    sum(
        (torch.from_numpy(c) * z.permute(0, 2, 3, 1)).sum() for c, z in zip(cotangents, outputs, strict=False)
    ).backward()
    for mine, other in zip(ours, outputs, strict=True):
        atol = (1e-9 if double else 1e-4) * float(other.detach().abs().max())
        np.testing.assert_allclose(mine, channels_last(other), rtol=0, atol=atol)
    expected = {key: parameter.grad for key, parameter in reference.named_parameters()}
    expected |= {key: buffer for key, buffer in reference.named_buffers() if "running" in key}
    assert arrays.keys() == expected.keys()
    for key, value in expected.items():
        error = np.abs(arrays[key] - value.numpy()).max() / max(float(value.abs().max()), NOTHING)
        assert error <= (1e-6 if double else 2e-3), (key, error)


def training_step(model, x, cotangents):
    """Return all logits, and gradients and running statistics under torch's names."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            outputs = model(x)
            logits = (outputs.logits, *outputs.auxiliary) if isinstance(outputs, models.WithAuxiliary) else (outputs,)
            total = sum((c * z).sum() for c, z in zip(cotangents, logits, strict=False))
            return total, (logits, nnx.state(model, nnx.BatchStat))

        return jax.grad(loss, has_aux=True)(params)

    gradients, (logits, statistics) = step(params, rest)
    nnx.update(model, gradients, statistics)
    return logits, interop.to_torch(model)
