"""Runs of the experiments that train nothing leave figures, a summary that is JSON, and a table."""

import json

import pytest
from matplotlib.image import imread

from cnnjax.train import Run
from experiments import load_experiment

SMALLEST = {  # options with which little is drawn
    "convolution": {"image": "5", "kernel": "2"},
    "kernels": {"photograph": "flower"},
    "learn-kernel": {"kernel": "1 2/3 4/5 6", "momentum": 0.0, "steps": 2},
    "strides-and-padding": {"size": 1, "kernel": 1},
    "arithmetic": {"size": 1, "kernel": 5, "padding": 3},
}
FIGURES = {
    "convolution": {"worked-examples", "step-by-step", "correlation-and-convolution", "channels", "moved-image"},
    "kernels": {"steps", "scharr", "flower"},
    "learn-kernel": {"learning", "kernels", "responses"},
    "strides-and-padding": {"strides", "pixel-utilization", "padding", "padding-modes", "shrinking"},
    "arithmetic": {"six-relationships", "floor", "parameters"},
}


@pytest.mark.parametrize("name", SMALLEST)
def test_a_run_leaves_small_figures_a_summary_and_a_table(tmp_path, one_device, name):
    experiment = load_experiment(name)
    config = experiment.Config(**SMALLEST[name])
    run = Run(tmp_path, name, {})
    summary = json.loads(json.dumps(experiment.run(config, experiment.load(config), run, one_device)))
    drawn = {path.stem: path for path in run.figures.iterdir()}
    assert drawn.keys() == FIGURES[name]
    assert all(path.stat().st_size < 200_000 and imread(path).std() > 0.01 for path in drawn.values())
    head, rule, *rows = (line for line in experiment.table(summary).splitlines() if line.startswith("|"))
    assert rows
    assert {line.count("|") for line in rows} == {head.count("|")} == {rule.count("|")}
