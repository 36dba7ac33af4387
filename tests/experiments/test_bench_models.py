"""The peers of the zoo's benchmark are the same networks; a measured network replaces its row and no other."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn
from cnnjax.errors import UserError
from cnnjax.models.blocks import SqueezeExcitation
from cnnjax.models.resnet_cifar import CifarResNet
from experiments import bench_models, references
from experiments.plain_flax import plain_flax

ROW = {
    "name": "resnet18",
    "size": 96,
    "own": False,
    "params": 11_689_512,
    "macs": 333_000_000,
    "parity_error": 2e-6,
    "memory": {"cnnjax": 1e8, "torch": 2e8, "plain Flax": 1e8},
    "milliseconds": {
        what: {"torch": 20.0, "cnnjax": 10.0, "plain Flax": 80.0} for what in ("latency", "throughput", "training")
    },
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.timing.FOLDER", tmp_path)
    return tmp_path


def test_plain_flax_computes_the_same_with_flax_s_layers():
    rngs = nnx.Rngs(0)
    model = nn.Sequential(
        nn.Conv(3, 8, 3, 2, "HALF", rngs=rngs),
        nn.BatchNorm(8),
        nn.MaxPool(3, 2, ceil_mode=True),  # of 8x8 pixels to 4x4, not 3x3
        nn.DepthwiseConv(8, 3, padding=1, rngs=rngs),
        SqueezeExcitation(8, 2, rngs=rngs),
        nn.Conv(8, 8, 3, padding="SAME", dilation=2, groups=2, rngs=rngs),
        nn.LayerNorm(8),
        nn.AvgPool(3, 2, 1),
        nn.GlobalAvgPool(),
        nn.Linear(8, 7, rngs=rngs),
    )
    model[1].var[...] = 1.5 * model[1].var[...]
    model.eval()
    plain = plain_flax(nnx.clone(model))
    plain.eval()
    x = np.random.default_rng(0).standard_normal((2, 15, 15, 3)).astype(np.float32)
    ours, theirs = jax.jit(lambda x: (model(x), plain(x)))(x)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * float(abs(ours).max()))
    kinds = {type(layer) for _, layer in nnx.iter_modules(plain)}
    assert not kinds & {nn.Conv, nn.DepthwiseConv, nn.BatchNorm, nn.MaxPool, nn.AvgPool, nn.GlobalAvgPool}


def test_means_learn_in_plain_flax_as_here():
    """Flax keeps the biased variance, torch and we the unbiased one."""
    ours, plain = (CifarResNet(8, num_classes=3, in_channels=3, rngs=nnx.Rngs(0)) for _ in range(2))
    plain_flax(plain).train()
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    for model in (ours, plain):
        nnx.jit(lambda model, x: model(x))(model, x)
    np.testing.assert_allclose(ours.bn1.mean[...], plain.bn1.mean[...], rtol=1e-5, atol=1e-7)


def test_a_row_replaces_the_one_of_its_network_and_size(results):
    for row in (ROW, ROW | {"size": 224, "own": True}, ROW | {"params": 1}):
        bench_models._keep(row)
    assert [(row["size"], row["params"]) for row in bench_models._rows()] == [(96, 1), (224, 11_689_512)]


def test_the_page_has_ratios_means_and_the_worst():
    slow = ROW | {"name": "vgg11", "milliseconds": {**ROW["milliseconds"], "training": {"torch": 1.0, "cnnjax": 2.0}}}
    page = bench_models.markdown([ROW, slow])
    assert "| resnet18 | 96 | 11,689,512 | 0.333 | 2e-06 | 10.0 | 1600 | 10 | 0.50 | 8.0 | 100 | 200 |" in page
    assert "geometric mean 1.00 over 2 networks, the worst 2.00 (vgg11)" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": "resnet19"}, "--models 'resnet19' matches none of alexnet"),
        ({"sizes": "64"}, "--sizes takes own, 96"),
    ],
)
def test_networks_and_sizes_that_are_not_there_are_named(options, message):
    with pytest.raises(UserError, match=message):
        bench_models.Options(**options)


@pytest.mark.parity
@pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm")
def test_a_network_is_measured_beside_both_peers(results, capsys):
    assert bench_models.main(["--models", "squeezenet1_1", "--sizes", "96", "--seconds", "0.01"]) == 0
    (row,) = bench_models._rows()
    assert row["params"] == 1_235_496
    assert 0 < row["parity_error"] < 1e-4
    assert all(set(times) == {"cnnjax", "plain Flax", "torch"} for times in row["milliseconds"].values())
    assert {path.name for path in results.iterdir()} == {"models.json", "models.md", "models.png"}
    assert "squeezenet1_1" in capsys.readouterr().out
