"""In training too, networks compute what torchvision's and timm's compute, and they start from the same distributions.

In float64: batch statistics of few values amplify the rounding of float32 beyond any tolerance worth a test.
"""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import interop, models
from experiments.bench import references

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
# A network of each family, without what is random in training.
FAMILIES = {
    "alexnet": {"dropout": 0.0},
    "vgg11_bn": {"dropout": 0.0},
    "googlenet": {"dropout": 0.0, "auxiliary_dropout": 0.0},
    "inception_v3": {"dropout": 0.0, "auxiliary": False},
    "resnet18": {},
    "resnext50_32x4d": {},
    "densenet121": {},
    "xception": {"dropout": 0.0},
    "squeezenet1_1": {"dropout": 0.0},
    "mobilenet_v1": {},
    "mobilenet_v2": {"dropout": 0.0},
    "mobilenet_v3_small": {"dropout": 0.0},
    "shufflenet_v2_x0_5": {},
    "mnasnet": {"dropout": 0.0},
    "efficientnet_b0": {"dropout": 0.0, "drop_path": 0.0},
    "efficientnet_v2_s": {"dropout": 0.0, "drop_path": 0.0},
    "convnext_tiny": {"drop_path": 0.0},
}
SLOW = ("vgg11_bn", "resnet18", "resnext50_32x4d", "efficientnet_v2_s")
NAMES = [pytest.param(name, marks=pytest.mark.zoo) if name in SLOW else name for name in FAMILIES]
REFERENCE_OPTIONS = {"inception_v3": {"aux_logits": False}}
LABELS = np.array([1, 3, 3, 7])
TOLERANCE = 1e-9  # of the largest value of each array
TOLERANCES = {"mobilenet_v3_small": 1e-7}  # torch's derivative of the hard sigmoid is 1/6 as float32 has it
NOTHING = 1e-4  # gradients below are rounding: what is added before a batch normalisation makes no difference


@pytest.mark.parametrize("name", NAMES)
def test_a_training_step_is_the_reference_s(name):
    """All logits, the gradient of their loss by every parameter, and the running statistics afterwards."""
    x = references.images(name, batch=len(LABELS)).astype(np.float64)
    reference = references.build(name, **REFERENCE_OPTIONS.get(name, {})).double()
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: models.create_model(name, **FAMILIES[name]))
        interop.load_torch(model, reference.state_dict())
        ours, weight = _training_step(model, x)
    theirs = _torch_training_step(reference, x, weight)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        tolerance = TOLERANCES.get(name, TOLERANCE) * max(np.abs(value).max(), NOTHING)
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=tolerance, err_msg=key)


def test_inception_v3_s_auxiliary_classifier_is_the_reference_s():
    """By itself, for it needs images of 299x299 pixels."""
    import torch

    reference = references.build("inception_v3").double().train()
    x = np.random.default_rng(0).standard_normal((4, 17, 17, 768))
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: models.create_model("inception_v3"))
        interop.load_torch(model, reference.state_dict())
        ours = nnx.jit(lambda head: head(x))(model.aux_logits)
    theirs = reference.AuxLogits(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize("name", NAMES)
def test_initial_values_have_the_reference_s_distributions(name):
    import torch

    torch.manual_seed(0)
    ours = interop.to_torch(models.create_model(name))
    for key, value in references.create(name).state_dict().items():
        if not key.endswith("num_batches_tracked"):
            theirs = value.numpy().astype(np.float64)
            spread = 5 / theirs.size**0.5  # five deviations of the difference of two measured deviations
            assert ours[key].std() == pytest.approx(theirs.std(), rel=spread), key
            apart = float(1.5 * spread * theirs.std())
            assert ours[key].mean() == pytest.approx(theirs.mean(), rel=1e-6, abs=apart), key
            if theirs.size > 1000:  # uniform or normal
                assert np.abs(ours[key]).max() == pytest.approx(np.abs(theirs).max(), rel=0.4), key


def _training_step(model, x):
    """Return logits, gradients and statistics under torch's names, and the weight of auxiliary losses."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graphdef, params, rest, copy=True)
            outputs = model(x)
            main, auxiliary, weight = outputs if isinstance(outputs, models.WithAuxiliary) else (outputs, (), 0.0)
            losses = [
                optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean() for logits in (main, *auxiliary)
            ]
            loss = losses[0] + weight * sum(losses[1:])
            return loss, ((main, *auxiliary), weight, nnx.state(model, nnx.BatchStat))

        return jax.grad(loss, has_aux=True)(params)

    gradients, (outputs, weight, statistics) = step(params, rest)
    nnx.update(model, gradients, statistics)
    return _named(outputs) | interop.to_torch(model), float(weight)


def _torch_training_step(reference, x, weight):
    import torch

    for module in reference.modules():
        if hasattr(module, "p"):  # dropout and stochastic depth
            module.p = 0.0
    outputs = reference.train()(torch.from_numpy(x).permute(0, 3, 1, 2))
    # torchvision has the auxiliary logits from the last one on.
    main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    main_loss, *losses = (
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)) for logits in (main, *auxiliary)
    )
    (main_loss + weight * sum(losses)).backward()
    arrays = {key: parameter.grad for key, parameter in reference.named_parameters()}
    arrays |= {key: buffer for key, buffer in reference.named_buffers() if not key.endswith("num_batches_tracked")}
    return _named(logits.detach() for logits in (main, *reversed(auxiliary))) | {
        k: a.numpy() for k, a in arrays.items()
    }


def _named(outputs):
    return {f"logits {number}": np.asarray(logits) for number, logits in enumerate(outputs)}
