"""The experiment of augmentations draws every family and says what changed; the benchmark's table follows its race."""

import json

import numpy as np
import pytest

from cnnjax.data import augment
from cnnjax.runs import Run
from experiments import augmentations
from experiments.bench import augment as bench_augment


def test_a_run_draws_every_family_and_says_what_changed(tmp_path, one_device, monkeypatch):
    white, black = "cutout:size=200,fill=1", "cutout:size=200,fill=0"  # programs that compile fast
    drawn = {}  # rendering takes longer than all the rest
    monkeypatch.setattr(augmentations.viz, "save", lambda figure, path: drawn.update({path.stem: figure}))
    monkeypatch.setattr(augmentations, "FIGURES", {"noise": (white,), "mixing": (black,)})
    monkeypatch.setattr(augmentations, "MOVED", (white,))
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    config, run = augmentations.Config(data="photographs"), Run(tmp_path, "augmentations", {})
    summary = json.loads(json.dumps(augmentations.run(config, images, run, one_device)))
    rows = {name: [part.get_suptitle() for part in figure.subfigs] for name, figure in drawn.items()}
    assert rows == {"noise": [white], "mixing": ["originals", black], "annotations": ["original", white]}
    assert summary["mean_change"] == {
        white: pytest.approx(1 - images[0].mean() / 255, rel=1e-4),  # of one image, often
        black: pytest.approx(images.mean() / 255, rel=1e-4),  # of all eight
    }
    assert summary["mask_in_box"] == {white: 1.0}
    assert augmentations.table(summary).splitlines()[2].endswith(" | 100.0% |")


def test_a_mask_out_of_its_box_is_seen():
    sample = augmentations.shapes_sample(0)
    left_half = sample.boxes.at[..., 2].set((sample.boxes[..., 0] + sample.boxes[..., 2]) / 2)
    assert augmentations._mask_in_box(sample) == 1
    moved = augment.Sample(sample.images, boxes=left_half, masks=sample.masks)
    assert 0.2 < augmentations._mask_in_box(moved) < 0.8


def test_the_benchmark_times_every_augmentation_and_sets_them_beside_the_step(monkeypatch, capsys):
    written, milliseconds = {}, {"step": 50.0, "mirror": 0.5, augmentations.TOGETHER: 4.0, "torchvision mirror": 6.0}
    monkeypatch.setattr(bench_augment, "contenders", lambda: dict.fromkeys(milliseconds))
    monkeypatch.setattr(bench_augment, "race", lambda contenders, seconds: dict(milliseconds))
    monkeypatch.setattr(bench_augment, "write_results", lambda name, results: written.update({name: results}))
    assert bench_augment.main(["--seconds", "0.1"]) == 0
    assert {row["name"]: row["percent_of_step"] for row in written["augment"]["rows"]} == {
        "mirror": pytest.approx(1),
        augmentations.TOGETHER: pytest.approx(8),
    }
    assert [row["torchvision_milliseconds"] for row in written["augment"]["rows"]] == [6.0, None]
    assert "50.0 ms" in capsys.readouterr().out


def test_the_contenders_are_a_step_every_augmentation_and_the_lecture_s_together(monkeypatch):
    step = lambda workload, images, labels: type("Contender", (), {"step": lambda self: None})()  # noqa: E731
    monkeypatch.setitem(bench_augment.bench_train.CONTENDERS, "cnnjax", ("jax", step))
    monkeypatch.setattr(bench_augment, "_torchvision", lambda images: {})
    contenders = bench_augment.contenders()
    assert contenders.keys() == {"step", augmentations.TOGETHER, *augment.AUGMENTATIONS}
    mirrored = contenders["mirror"]()
    assert mirrored.images.shape == (bench_augment.BATCH, 32, 32, 3)
