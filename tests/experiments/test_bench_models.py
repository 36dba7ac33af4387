"""The peers of the zoo's benchmark are the same networks; a measured network replaces its row and no other."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, nn
from cnnjax.errors import UserError
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


# Poolings with rounded sizes, depthwise convolutions and excitation, groups, averages, and no normalisation at all.
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "resnet20", "densenet_bc_100_12"])
def test_plain_flax_computes_the_same_with_flax_s_layers(name):
    model = models.create_model(name, num_classes=7)
    x = np.random.default_rng(0).standard_normal((2, 36, 36, 3)).astype(np.float32)
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nn.BatchNorm):
            layer.var[...] = 1.5 * layer.var[...]
    model.eval()
    ours = jax.jit(lambda x: model(x))(x)
    plain = plain_flax(model)
    plain.eval()
    np.testing.assert_allclose(jax.jit(lambda x: plain(x))(x), ours, rtol=0, atol=1e-4 * float(abs(ours).max()))
    kinds = {type(layer) for _, layer in nnx.iter_modules(plain)}
    assert not kinds & {nn.Conv, nn.DepthwiseConv, nn.BatchNorm, nn.MaxPool, nn.AvgPool, nn.GlobalAvgPool}


def test_statistics_learn_in_plain_flax_as_here():
    ours, plain = (models.create_model("resnet20", num_classes=3) for _ in range(2))
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
