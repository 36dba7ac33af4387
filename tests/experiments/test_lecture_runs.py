"""Runs of the lectures' experiments leave figures, a summary that is JSON, and a table; long ones are `published`."""

import json

import pytest
from matplotlib.image import imread

from cnnjax.lab import experiments
from cnnjax.runs import Run

SMALLEST = {  # options with which little is drawn
    "convolution": {"image": "5", "kernel": "2"},
    "kernels": {"photograph": "flower"},
    "learn-kernel": {"kernel": "1 2/3 4/5 6", "momentum": 0.0, "steps": 2},
    "strides-and-padding": {"size": 1, "kernel": 1},
    "arithmetic": {"size": 1, "kernel": 5, "padding": 3},
    "pooling": {"photograph": "flower"},
    "receptive-field": {"data": "digits", "epochs": 1, "seeds": 1, "batch_size": 1024},
    "upsampling": {"photograph": "flower"},
    "checkerboard": {"seed": 1},
    "activations": {"seed": 1},
}
CHEAPER = {  # what no option makes smaller
    "receptive-field": {"EFFECTIVE_DEPTHS": (2, 3), "DRAWS": 2},
    "checkerboard": {"SEEDS": 1, "STEPS": 2, "DRAWS": 4},
    "activations": {"LAYERS": 3},
}
LONG = ("pooling", "receptive-field", "upsampling", "checkerboard", "activations")
FIGURES = {
    "convolution": {"worked-examples", "step-by-step", "correlation-and-convolution", "channels", "moved-image"},
    "kernels": {"steps", "as-printed", "flower"},
    "learn-kernel": {"learning", "kernels", "responses"},
    "strides-and-padding": {"strides", "pixel-utilization", "padding", "padding-modes", "shrinking"},
    "arithmetic": {"six-relationships", "floor", "parameters"},
    "pooling": {"worked-examples", "backgrounds", "switches", "translation", "window-size"},
    "receptive-field": {"fields", "growth", "effective", "effective-sections", "training"},
    "upsampling": {"definitions", "gallery", "transposed-convolution", "learning", "learned-kernel"},
    "checkerboard": {"overlap", "random-decoders", "trained-decoders", "spectra"},
    "activations": {"functions", "gradients"},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.published] * (name in LONG)) for name in SMALLEST]
)
def test_a_run_leaves_small_figures_a_summary_and_a_table(tmp_path, one_device, monkeypatch, name):
    experiment = experiments.load(name)
    for attribute, value in CHEAPER.get(name, {}).items():
        monkeypatch.setattr(experiment, attribute, value)
    config = experiment.Config(**SMALLEST[name])
    run = Run(tmp_path, name, {})
    run.create()
    summary = json.loads(json.dumps(experiment.run(config, experiment.load(config), run, one_device)))
    drawn = {path.stem: path for path in run.figures.iterdir()}
    assert drawn.keys() == FIGURES[name]
    assert all(path.stat().st_size < 200_000 and imread(path).std() > 0.01 for path in drawn.values())
    tables = [part for part in experiment.table(summary).split("\n\n") if part.startswith("|")]
    assert tables
    for table in tables:
        head, rule, *rows = table.splitlines()
        assert rows
        assert {line.count("|") for line in rows} == {head.count("|")} == {rule.count("|")}
