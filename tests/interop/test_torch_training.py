"""In training too, networks compute what torchvision's and timm's compute, and they start from the same distributions.

Blocks of every family by default, whole networks with -m zoo: those take minutes to compile. In float64: batch
statistics of few values amplify the rounding of float32 beyond any tolerance worth a test.
"""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.interop.names import namings, rename
from cnnjax.nn import initializers, path_name
from experiments.bench import references

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm"),
]
# A network of each family, and what turns off all that is random in training.
FAMILIES = {
    "alexnet": {"dropout": 0.0},
    "vgg11_bn": {"dropout": 0.0},
    "googlenet": {"dropout": 0.0, "auxiliary_dropout": 0.0},
    "inception_v3": {"dropout": 0.0},
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
LARGE = ("alexnet", "vgg11_bn")  # a hundred million parameters; their layers' kinds are in the others
# Blocks that together have every kind of layer and shortcut of the family, and the shapes that they take.
BLOCKS = {
    "googlenet": {"inception3a": (8, 8, 192), "aux1": (5, 5, 512)},
    "inception_v3": {
        "mixed_5b": (5, 5, 192),
        "mixed_7a": (7, 7, 768),
        "aux_logits": (17, 17, 768),
    },
    "resnet18": {"layer1.0": (8, 8, 64), "layer2.0": (8, 8, 64)},
    "resnext50_32x4d": {"layer2.0": (8, 8, 256), "layer2.1": (4, 4, 512)},
    "densenet121": {"features.denseblock1.denselayer2": (8, 8, 96), "features.transition1": (8, 8, 256)},
    "xception": {"block1": (9, 9, 64), "block5": (5, 5, 728)},
    "squeezenet1_1": {"features.3": (8, 8, 64)},
    "mobilenet_v1": {"blocks.1.0": (8, 8, 64)},
    "mobilenet_v2": {"features.1": (8, 8, 32), "features.2": (8, 8, 16), "features.3": (8, 8, 24)},
    "mobilenet_v3_small": {"features.1": (8, 8, 16), "features.3": (8, 8, 24), "features.5": (8, 8, 40)},
    "shufflenet_v2_x0_5": {"stage2.0": (8, 8, 24), "stage2.1": (8, 8, 48)},
    "mnasnet": {"features.8.0": (8, 8, 16), "features.8.1": (8, 8, 24)},
    "efficientnet_b0": {"features.1.0": (8, 8, 32), "features.2.0": (8, 8, 16), "features.2.1": (8, 8, 24)},
    "efficientnet_v2_s": {"features.1.0": (8, 8, 24), "features.2.0": (8, 8, 24), "features.2.1": (8, 8, 48)},
    "convnext_tiny": {"features.1.0": (8, 8, 96), "features.2": (8, 8, 96)},
}
LABELS = np.array([1, 3, 3, 7])
TOLERANCE = 1e-9  # of the largest value of each array
TOLERANCES = {"mobilenet_v3_small": 1e-7}  # torch's derivative of the hard sigmoid is 1/6 as float32 has it
NOTHING = 1e-4  # gradients below are rounding: what is added before a batch normalisation makes no difference


@pytest.mark.parametrize("name", BLOCKS)
def test_a_training_step_of_blocks_is_the_reference_s(name):
    """Outputs, the gradients by inputs and parameters, and the running statistics afterwards."""
    generator = np.random.default_rng(0)
    inputs = {block: generator.standard_normal((len(LABELS), *shape)) for block, shape in BLOCKS[name].items()}
    reference = references.build(name).double()
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: models.create_model(name, **FAMILIES[name]))
        interop.load_torch(model, reference.state_dict())
        renames = namings(model)[0].renames
        theirs, cotangents = {}, {}
        for block, x in inputs.items():
            block_there = rename(f"{block}.", renames).removesuffix(".")
            arrays, cotangents[block] = _torch_block_step(_without_randomness(reference), block_there, x, generator)
            theirs |= {f"{block} {key}": array for key, array in arrays.items()}
        ours = _block_steps(model, inputs, cotangents)
    theirs |= _gradients_and_statistics(reference, [rename(f"{block}.", renames) for block in inputs])
    _check(name, {key: ours[key] for key in theirs}, theirs)


@pytest.mark.zoo
@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_of_a_whole_network_is_the_reference_s(name):
    """All logits, the gradient of their loss by every parameter, and the running statistics afterwards."""
    x = references.images(name, batch=len(LABELS)).astype(np.float64)
    # Inception-v3's auxiliary classifier needs larger images; the test of blocks has it.
    smaller, smaller_there = ({"auxiliary": False}, {"aux_logits": False}) if name == "inception_v3" else ({}, {})
    reference = references.build(name, **smaller_there).double()
    with jax.enable_x64(True):
        model = nnx.eval_shape(lambda: models.create_model(name, **FAMILIES[name], **smaller))
        interop.load_torch(model, reference.state_dict())
        ours, weight = _training_step(model, x)
    theirs = _torch_training_step(reference, x, weight)
    assert ours.keys() == theirs.keys()
    _check(name, ours, theirs)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.zoo) if name in LARGE else name for name in FAMILIES]
)
def test_initial_values_have_the_reference_s_distributions(name, monkeypatch):
    import torch

    torch.manual_seed(0)
    monkeypatch.setattr(initializers, "_draw", _draw)
    ours = interop.to_torch(models.create_model(name))
    for key, value in references.create(name).state_dict().items():
        if not key.endswith("num_batches_tracked"):
            theirs = value.numpy().astype(np.float64)
            spread = 5 / theirs.size**0.5  # five deviations of the difference of two measured deviations
            assert ours[key].std() == pytest.approx(theirs.std(), rel=spread), key
            apart = float(1.5 * spread * theirs.std())
            assert ours[key].mean() == pytest.approx(theirs.mean(), rel=1e-6, abs=apart), key
            if theirs.size > 1000:  # normal, not uniform nor cut off at two deviations
                tails = [bool(np.abs(values).max() > 2.5 * values.std()) for values in (ours[key], theirs)]
                assert tails[0] == tails[1], key


def _draw(key, distribution, size):
    """Numbers of NumPy, in the place of JAX's, which compiles a program for every size."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    if distribution == "uniform":
        return 2 * generator.random(size, np.float32) - 1
    return {"normal": generator.standard_normal}[distribution](size, np.float32)


def _check(name, ours, theirs):
    for key, value in theirs.items():
        tolerance = TOLERANCES.get(name, TOLERANCE) * max(np.abs(value).max(), NOTHING)
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=tolerance, err_msg=key)


def _block_steps(model, inputs, cotangents):
    """Return outputs and gradients by inputs of blocks, and the model's gradients and statistics, by torch's names."""
    modules = {path_name(path): module for path, module in nnx.iter_modules(model)}
    blocks = {block: nnx.split(modules[block], nnx.Param, ...) for block in inputs}
    graphdefs = {block: graphdef for block, (graphdef, *_) in blocks.items()}

    @jax.jit  # one program for all blocks
    def step(states, inputs, cotangents):
        def differentiate(block):
            def call(params, x):
                module = nnx.merge(graphdefs[block], params, states[block][1], copy=True)
                return module(x), nnx.state(module, nnx.BatchStat)

            y, pull_back, statistics = jax.vjp(call, states[block][0], inputs[block], has_aux=True)
            return y, *pull_back(cotangents[block]), statistics

        return {block: differentiate(block) for block in inputs}

    arrays = {}
    results = step({block: states for block, (_, *states) in blocks.items()}, inputs, cotangents)
    for block, (y, by_params, by_x, statistics) in results.items():
        nnx.update(modules[block], by_params, statistics)
        arrays |= {f"{block} output": np.asarray(y), f"{block} gradient by the input": np.asarray(by_x)}
    return arrays | interop.to_torch(model)


def _torch_block_step(reference, block, x, generator):
    """Return the output and the gradient by the input, and the random gradient that was given for the output."""
    import torch

    def channels_last(tensor):
        return tensor.detach().numpy() if tensor.ndim == 2 else tensor.detach().permute(0, 2, 3, 1).numpy()

    x = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    y = reference.get_submodule(block)(x)
    cotangent = torch.from_numpy(generator.standard_normal(y.shape))
    y.backward(cotangent)
    return {"output": channels_last(y), "gradient by the input": channels_last(x.grad)}, channels_last(cotangent)


def _without_randomness(reference):
    for module in reference.modules():
        if hasattr(module, "p"):  # dropout and stochastic depth
            module.p = 0.0
    return reference.train()


def _gradients_and_statistics(reference, prefixes=("",)):
    arrays = {key: parameter.grad for key, parameter in reference.named_parameters()}
    arrays |= {key: buffer for key, buffer in reference.named_buffers() if not key.endswith("num_batches_tracked")}
    return {key: array.numpy() for key, array in arrays.items() if key.startswith(tuple(prefixes))}


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

    outputs = _without_randomness(reference)(torch.from_numpy(x).permute(0, 3, 1, 2))
    # torchvision has the auxiliary logits from the last one on.
    main, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    main_loss, *losses = (
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS)) for logits in (main, *auxiliary)
    )
    (main_loss + weight * sum(losses)).backward()
    return _named(logits.detach() for logits in (main, *reversed(auxiliary))) | _gradients_and_statistics(reference)


def _named(outputs):
    return {f"logits {number}": np.asarray(logits) for number, logits in enumerate(outputs)}
