"""What the comparison of networks for segmentation is made of, and that its claims can fail."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
from flax import nnx

from cnnjax import data, models, tasks, train
from cnnjax.errors import UserError
from cnnjax.runs import Run
from experiments import _segmentation_backbone, _segmentation_boards, segmentation

CLASSES = ("background", "circle")


def network(mean_iou, **others):
    by_seed = [{"mean_iou": mean_iou + d, "boundary_f1": 0.6, "thin_accuracy": 0.5} | others for d in (-0.01, 0.01)]
    return {
        "mean_iou": mean_iou,
        "boundary_f1": 0.6,
        "thin_accuracy": 0.5,
        "pixel_accuracy": 0.9,
        "step_ms": 40.0,
        "image_ms": 3.0,
        "params": 1_234_567,
        "multiply_adds": 7_654_321,
        "iou": {"background": 0.95, "circle": None},
        "by_seed": by_seed,
    } | others


def summary():
    networks = {"FCN-8s": network(0.7), "DeepLab": network(0.72), "DilatedNet": network(0.74)}
    networks |= {
        "encoder-decoder": network(0.71),
        segmentation.POOLED: network(0.6, boundary_f1=0.4, thin_accuracy=0.3),
    }
    return {
        "data": {"name": "shapes", "version": "1", "test": 500, "score_size": [64, 64]},
        "backbone": "narrow VGG",
        "networks": networks,
        "checkerboards": {"2x2": {"peak": 1.1, "mean_iou": 0.5}, "3x3": {"peak": 2.0, "mean_iou": 0.4}},
    }


def verdicts(of):
    return [str(claim.verdict) for claim in segmentation.claims(of)]


def test_the_claims_hold_for_what_they_say():
    assert verdicts(summary()) == ["holds"] * 5
    assert {claim.id for claim in segmentation.claims(summary())} == {"F4", "I1"}


@pytest.mark.parametrize(
    ("name", "change", "row", "verdict"),
    [
        (segmentation.POOLED, {"thin_accuracy": 0.7}, 1, "fails"),  # pooling keeps what is thin
        (segmentation.POOLED, {"boundary_f1": 0.7}, 1, "fails"),
        ("FCN-8s", {"mean_iou": 0.8}, 2, "erratum"),  # another order than the figure's
        ("encoder-decoder", {"mean_iou": 0.6}, 3, "fails"),
        ("DilatedNet", {"mean_iou": 0.3}, 4, "fails"),
    ],
)
def test_another_result_turns_a_verdict(name, change, row, verdict):
    other = copy.deepcopy(summary())
    other["networks"][name] |= change
    for one in other["networks"][name]["by_seed"]:
        one |= change
    assert verdicts(other)[row] == verdict


def test_an_order_that_the_seeds_do_not_agree_on_is_no_correction():
    other = summary()
    other["networks"]["FCN-8s"]["by_seed"][0]["mean_iou"] = 0.9
    assert verdicts(other)[2] == "fails"


def test_the_tables_have_every_network_class_and_kernel():
    table = segmentation.table(summary())
    for text in ("500 test images of shapes", "FCN-8s", "70.0% ± 1.4% (2 seeds)", "1,234,567", "| circle | - |", "3x3"):
        assert text in table


@pytest.mark.parametrize("kernel_size", _segmentation_boards.KERNELS)
def test_another_kernel_of_transposed_convolutions_keeps_the_sizes(kernel_size):
    model = _segmentation_boards.encoder_decoder(kernel_size, 3, seed=0)
    assert [layer.kernel_size for layer in model.up] == [(kernel_size, kernel_size)] * 3
    rows = models.layer_rows(model, (32, 32, 3))
    options: dict = {"widths": _segmentation_boards.WIDTHS, "batch_norm": True}
    usual = models.layer_rows(models.create_model("unet", num_classes=3, **options), (32, 32, 3))
    assert [row.output_shape for row in rows] == [row.output_shape for row in usual]


@pytest.mark.parametrize("backbone", ["", "mobilenet_v2", "vgg11_bn"])
def test_networks_that_are_compared_have_one_backbone(backbone):
    config = segmentation.Config(backbone=backbone)
    dataset = type("Data", (), {"class_names": CLASSES, "image_shape": (64, 64, 3)})
    loaded = segmentation.Loaded(dataset, (None, None), None)
    built = {
        name: nnx.eval_shape(lambda n=name: segmentation._build(n, config, loaded, 0)) for name in segmentation.NETWORKS
    }
    found = {model.backbone.kind for model in built.values()}
    assert len(found) == 1
    both = (models.count_params(built[name]) for name in ("DeepLab", segmentation.POOLED))
    assert len(set(both)) == 1  # dilation costs no parameters


@pytest.fixture(scope="module")
def scenes():
    every = data.load_masks("shapes", image_size=32)
    return dataclasses.replace(every, train=every.train.slice(0, 8), test=every.test.slice(0, 8))


def test_the_context_module_is_trained_on_a_front_end_that_stays(tmp_path, scenes):
    config = segmentation.Config(epochs=1, seed=3, optimizer="sgd", lr=0.1)
    loaded = segmentation.Loaded(scenes, (scenes.train, scenes.test), None)
    build = partial(segmentation._build, "DilatedNet", config, loaded)
    task = tasks.Segmentation(config, scenes.class_names)
    fits = segmentation._fits("DilatedNet", build, task, config, loaded, Run(tmp_path), train.Parallel())
    ((front, fit),) = fits
    final = dict(fit.state.params)
    context, first = final.pop("context"), nnx.state(build(3).context, nnx.Param)
    assert train.tree_sha256(final) == train.tree_sha256(dict(front.state.params))
    assert train.tree_sha256(fit.state.model_state) == train.tree_sha256(front.state.model_state)
    assert train.tree_sha256(context) != train.tree_sha256(nnx.as_pure(first).raw_mapping)


def test_the_narrow_backbone_has_learned_and_goes_into_the_networks(tmp_path, monkeypatch, scenes):
    shapes = data.load("shapes")
    few = dataclasses.replace(shapes, train=shapes.train.slice(0, 64))
    monkeypatch.setattr(data, "load", lambda name: few)
    monkeypatch.setattr(_segmentation_backbone, "RECIPE", dataclasses.replace(_segmentation_backbone.RECIPE, epochs=1))
    network = _segmentation_backbone.trained(0, Run(tmp_path), train.Parallel())
    new = _segmentation_backbone.NarrowVGG(num_classes=10, rngs=nnx.Rngs(0)).network
    kernels = [np.asarray(one.features[0].kernel[...]) for one in (network, new)]
    assert 1e-4 < np.abs(kernels[0] - kernels[1]).max() < 0.2  # two steps of Adam from the same start
    loaded = segmentation.Loaded(scenes, (None, None), network)
    model = segmentation._build("FCN-8s", segmentation.Config(), loaded, 1)
    np.testing.assert_array_equal(model.backbone.layers["0"].kernel[...], kernels[0])


def test_weights_need_a_backbone_and_are_read(tmp_path):
    with pytest.raises(UserError, match="`weights` are of a `backbone`"):
        segmentation.Config(weights="x.pth")
    (tmp_path / "x.pth").write_bytes(b"no weights")
    with pytest.raises(UserError, match="`weights` has none of resnet18"):
        segmentation.load(segmentation.Config(backbone="resnet18", weights=str(tmp_path / "x.pth")))
