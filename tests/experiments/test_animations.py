"""The animations: sizes by the formula, sums by NumPy, files that are small, and options that are checked."""

import numpy as np
import pytest

from cnnjax import runs, train
from cnnjax.errors import UserError
from experiments import animations
from experiments.animations import SETTINGS, Config

FEW = {name: SETTINGS[name] for name in ("padding-and-strides", "dilation", "transposed-strides")}


@pytest.fixture(scope="module", params=[FEW, pytest.param(SETTINGS, marks=pytest.mark.published)], ids=["few", "all"])
def made(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(animations, "SETTINGS", request.param)
        yield drawn(tmp_path_factory)


def drawn(tmp_path_factory):
    config = Config(seconds=0.5)
    run = runs.Run(tmp_path_factory.mktemp("animations") / "run", "animations", runs.as_config(config))
    run.create()
    slides = animations.load(config)
    return slides, run, animations.run(config, slides, run, train.Parallel())


def test_every_output_has_the_formulas_size_and_the_sums_of_numpy(made):
    slides, _, summary = made
    for name, row in summary["settings"].items():
        assert row["output"] == row["formula"], name
        slide = slides[name]
        rows, columns = slide.output.shape
        for place in np.ndindex(rows, columns):
            seen = slide.picture[slide.taps(place[0] * columns + place[1])]
            assert row["sums"][place[0] * columns + place[1]] == np.sum(seen * slide.kernel)
    assert animations.table(summary).count("\n") == len(animations.SETTINGS) + 1


def test_every_animation_is_small(made):
    _, run, _ = made
    files = sorted(run.figures.iterdir())
    assert len(files) == len(animations.SETTINGS)
    assert all(10_000 < path.stat().st_size < 300_000 for path in files)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"seconds": 0.0}, "`seconds` must be from 0.02 to 60, got 0.0"),
        ({"seconds": float("nan")}, "`seconds` must be from 0.02 to 60, got nan"),
        ({"seed": -1}, "`seed` must be from 0"),
    ],
)
def test_options_out_of_range_are_refused(option, said):
    with pytest.raises(UserError, match=said):
        Config(**option)
