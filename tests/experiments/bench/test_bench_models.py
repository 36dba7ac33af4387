"""The peers of the zoo's benchmark are the same networks; a measured network replaces its row and no other."""

import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, nn
from cnnjax.errors import RunError, UserError
from cnnjax.models.blocks import SqueezeExcitation
from experiments.bench import models as bench_models
from experiments.bench import references, zoo
from experiments.bench.plain_flax import plain_flax

ROW = {
    "name": "resnet18",
    "size": 96,
    "own": False,
    "params": 11_689_512,
    "macs": 333_000_000,
    "parity_error": 2e-6,
    "memory": {"cnnjax": 1e8, "torch": 2e8, "plain Flax": 1e8},
    "compilation_seconds": {"cnnjax": 12.0, "plain Flax": 11.0},
    "creation_seconds": 3.0,
    "tracing_seconds": 0.25,
    "milliseconds": {
        what: {"torch": 20.0, "cnnjax": 10.0, "plain Flax": 80.0} for what in ("latency", "throughput", "training")
    },
}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.bench.timing.FOLDER", tmp_path)
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
    ours, plain = (nn.Sequential(nn.Conv(3, 8, 3, rngs=nnx.Rngs(0)), nn.BatchNorm(8)) for _ in range(2))
    plain_flax(plain).train()
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    for model in (ours, plain):
        nnx.jit(lambda model, x: model(x))(model, x)
    np.testing.assert_allclose(ours[1].mean[...], plain[1].mean[...], rtol=1e-5, atol=1e-7)


def test_a_row_replaces_the_one_of_its_network_and_size(results):
    for row in (ROW, ROW | {"size": 224, "own": True}, ROW | {"params": 1}):
        bench_models._keep(row)
    assert [(row["size"], row["params"]) for row in bench_models._rows()] == [(96, 1), (224, 11_689_512)]


def training(name, **milliseconds):
    return ROW | {"name": name, "milliseconds": ROW["milliseconds"] | {"training": milliseconds}}


def test_the_page_has_ratios_means_and_the_worst():
    own = [training(name, torch=1.0, cnnjax=ratio) | {"size": 224, "own": True} for name, ratio in (("a", 1), ("b", 4))]
    page = bench_models.markdown([ROW, training("vgg11", torch=1.0, cnnjax=2.0), *own])
    assert "| resnet18 | 96 | 11,689,512 | 0.333 | 2e-06 | 10.0 | 1600 | 10 | 0.50 | 8.0 | 100 | 200 |" in page
    assert " | 100 | 200 | 12.0 | 3.00 | 0.25 |" in page
    assert "cnnjax / torch: geometric mean of 2 networks | 1.00 | <= 1.2 |" in page
    assert "| the same, the worst | 2.00 (vgg11) | <= 2 |" in page
    assert "images of their own sizes, cnnjax / torch: geometric mean of 2 networks | 2.00 |  |" in page
    assert "| the same, the worst | 4.00 (b) |  |" in page


def test_a_parity_error_that_is_no_number_is_the_largest():
    rows = [ROW | {"name": name, "parity_error": error} for name, error in (("a", 1e-6), ("b", math.nan), ("c", 1e-5))]
    assert bench_models.aims(rows)[-1][1] == "nan (b at 96x96)"


def test_a_plain_flax_network_that_computes_something_else_is_not_timed(monkeypatch):
    other = models.create_model("lecture-cnn", num_classes=10, image_size=12, seed=1)
    monkeypatch.setattr(zoo, "plain_flax", lambda model: other)
    with pytest.raises(SystemExit, match="the logits of plain Flax's lecture-cnn are not those of ours"):
        zoo.measure("lecture-cnn", 12, 0.0, False)


def test_the_table_of_docs_has_the_rows_at_96x96():
    table = bench_models.short_table([ROW, ROW | {"name": "vgg11", "size": 224}])
    assert "| resnet18 | 11,689,512 | 0.333 | 2e-06 | 1600 | 10 | 0.50 | 8.0 |" in table
    assert "vgg11" not in table


def test_the_aims_count_whoever_has_the_peer():
    without_torch = training("shufflenet_v1_g1", cnnjax=1.0, **{zoo.FLAX: 12.0}) | {"parity_error": None, "params": 1}
    families = [training(f"efficientnet_b{n}", torch=1.0, cnnjax=1.0, **{zoo.FLAX: 20.0 - n}) for n in range(2)]
    measured = {what: value for what, value, _ in bench_models.aims([ROW, without_torch, *families])}
    step = "training step of 16 images of 96x96"
    assert measured[f"{step}, cnnjax / torch: geometric mean of 3 networks"] == "0.79"
    assert measured[f"{step}, plain Flax / cnnjax: EfficientNet, the worst"] == "19.00 (efficientnet_b1)"
    assert measured[f"{step}, plain Flax / cnnjax: ShuffleNet, the worst"] == "12.00 (shufflenet_v1_g1)"
    assert measured[f"{step}, plain Flax / cnnjax: Xception, the worst"] == ""
    assert measured["compiling a training step, s: the longest"] == "12.00 (resnet18 at 96x96)"
    assert measured["create_model of the largest, s"] == "3.00 (resnet18)"
    assert " |  |" in bench_models.markdown([without_torch])


# ---------------------------------------------------------------- which ones


def test_all_networks_are_measured_each_as_it_was_published():
    networks = zoo.networks()
    assert list(networks) == sorted({*models.list_models()} - {*models.list_models(task="localization")})
    assert networks["unet"][1:] == (224, 21, 30.0, True)
    assert networks["zfnet"][1:3] == (224, 1000)
    assert networks["all_cnn_c"][1:3] == (32, 10)


def test_what_is_there_is_not_measured_again(results, monkeypatch):
    measured = []

    def measure(network, size, options):
        measured.append((network.name, size))
        if network.name == "resnet44":
            raise RunError("killed")
        return training(network.name, cnnjax=1.0) | {"size": size}

    monkeypatch.setattr(bench_models, "measure", measure)
    monkeypatch.setattr(references, "installed", lambda: True)
    arguments = ["--models", "resnet2?,resnet[24]?", "--sizes", "96", "--skip-flax"]
    assert bench_models.main(arguments) == 1  # says that one failed, and goes on
    assert measured == [("resnet20", 96), ("resnet44", 96)]
    assert bench_models.main(arguments) == 1
    assert measured[2:] == [("resnet44", 96)]
    assert bench_models.main(arguments[:-1]) == 1  # with plain Flax, which is not there
    assert measured[3:] == [("resnet20", 96), ("resnet44", 96)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": "resnet18,resnet19"}, "`models='resnet19'` matches none of alexnet"),
        ({"sizes": "64"}, "`sizes` must be own, 96"),
    ],
)
def test_networks_and_sizes_that_are_not_there_are_named(options, message):
    with pytest.raises(UserError, match=message):
        bench_models.Options(**options)


def test_rows_of_another_machine_are_not_mixed_with_this_one_s(results):
    bench_models._keep(ROW)
    path = results / "models.json"
    path.write_text(path.read_text().replace('"cpu_cores": ', '"cpu_cores": 1'))
    with pytest.raises(UserError, match="measured with other device than are here: move it away"):
        bench_models._keep(ROW)


def test_the_time_left_follows_what_the_networks_took():
    network = zoo.Network("efficientnet_b4", size=380, classes=1000, gmacs=4.4)
    small, own = (bench_models.expected_seconds(network, size) for size in (190, 380))
    assert own - small == pytest.approx(0.75 * 4.4 * bench_models.SECONDS_A_GMAC)
    assert bench_models.seconds_left([10, 20, 30], 0, 0.0) == 60
    assert bench_models.seconds_left([10, 20, 30], 2, 60.0) == 60  # twice as long as expected


# ---------------------------------------------------------------- one network


def test_a_network_without_a_peer_is_measured_in_a_process_of_its_own(results, capsys, monkeypatch):
    monkeypatch.setattr(references, "installed", lambda: True)
    assert bench_models.main(["--models", "conv_autoencoder", "--sizes", "own", "--seconds", "0"]) == 0
    (row,) = bench_models._rows()
    assert row["parity_error"] is None
    assert all(set(times) == {"cnnjax", "plain Flax"} for times in row["milliseconds"].values())
    assert set(row["memory"]) == set(row["compilation_seconds"]) == {"cnnjax", "plain Flax"}
    seconds = (*row["compilation_seconds"].values(), row["creation_seconds"], row["tracing_seconds"])
    assert all(0 < value < 60 for value in seconds)
    assert row["memory"]["cnnjax"] > 2 * 4 * row["params"]  # the weights and their momentum
    assert {path.name for path in results.iterdir()} == {
        "models.json",
        "models.md",
        "networks.md",
    }  # no chart without torch
    printed = capsys.readouterr()
    assert "conv_autoencoder  32" in printed.out
    assert "conv_autoencoder at 32x32: 1 of 1, about 0:0" in printed.err


def test_a_process_that_fails_is_an_error_of_the_run(capfd):
    with pytest.raises(RunError, match="measure ended with exit status 1"):
        bench_models._apart(zoo.measure, "resnet19", 32, 0.0, True)
    assert "KeyError: 'resnet19'" in capfd.readouterr().err


def test_a_step_that_does_not_fit_into_memory_is_not_tried():
    zoo._check_memory(10**6)
    with pytest.raises(SystemExit, match=r"^a step of 16 images needs 1000000000 GB, and this machine has \d+$"):
        zoo._check_memory(10**18)


def test_torch_s_mode_is_set_outside_the_timed_calls():
    torch = pytest.importorskip("torch")
    modes = []

    class Network(torch.nn.Sequential):
        def train(self, mode=True):
            modes.append(mode)
            return super().train(mode)

    network = Network(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(144, 3))
    images = np.random.default_rng(0).standard_normal((4, 8, 8, 3), np.float32)
    contender = zoo.torch_contender(network, images, np.arange(4) % 3)
    for what in zoo.MEASURES:
        contender.set_mode(what == "training")
        modes.clear()
        before = network[1].running_mean.clone()
        contender.calls[what]()
        assert modes == []
        assert torch.equal(before, network[1].running_mean) == (what != "training")


LINEAR = """
import torch
from experiments.bench import references, zoo
references.build = lambda name: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64**2, 2048))
print(zoo.torch_memory("alexnet", 64))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets its peak")
def test_torch_s_memory_is_what_its_step_holds():
    """Of a linear layer of 101 MB: weights, gradients and momentum, but no copy of them."""
    pytest.importorskip("torch")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    out = subprocess.run([sys.executable, "-c", LINEAR], env=environment, stdout=subprocess.PIPE, check=True).stdout
    assert int(out) == pytest.approx(3 * 4 * 2048 * (3 * 64**2 + 1), rel=0.1)


@pytest.mark.published
@pytest.mark.parity
@pytest.mark.skipif(not references.installed(), reason="needs torch, torchvision and timm")
def test_a_network_computes_what_torch_s_does():
    row = zoo.measure("squeezenet1_1", 64, 0.0, True)
    assert row["params"] == 1_235_496
    assert 0 < row["parity_error"] < 1e-4
    assert all(set(times) == {"cnnjax", "torch"} for times in row["milliseconds"].values())
