"""docs/extending.md tells the truth: its walk is the call stack, and its network, task and experiment run."""

import json
import re
import traceback
from pathlib import Path

import jax
import numpy as np
import pytest

from cnnjax import data, models, tasks, train
from cnnjax.lab import app, experiments
from cnnjax.train import step as train_step

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The page's examples as a person would keep them: one file, anywhere."""
    file = tmp_path_factory.mktemp("elsewhere") / "spotting.py"
    file.write_text("\n\n".join(BLOCKS))
    return file


def test_a_network_of_a_strangers_file_is_one_of_the_zoo(stranger):
    experiments.load(str(stranger))
    assert "spotter" in models.list_models()
    model = models.create_model("spotter", num_classes=7)
    assert model(np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 7)
    assert "spotter" not in (ROOT / "cnnjax").glob("**/*spotter*")


def test_an_experiment_of_a_strangers_file_trains_its_own_task_and_resumes(stranger, tmp_path, capsys):
    command = [str(stranger), "--data", "shapes", "--epochs", "6", "--lr", "3e-3"]
    command += ["--out", str(tmp_path / "run")]
    assert app.main(command) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["experiment"] == "spotting"
    assert summary["distance"] < 0.1  # from the centre of the image it is 0.144 in the mean
    capsys.readouterr()
    assert app.main(command) == 0
    assert "Finished before" in capsys.readouterr().out


class TracedError(Exception):
    """Ends the run where its step is traced: what follows is no part of the walk."""


def test_the_walk_of_the_page_is_the_call_stack(tmp_path, monkeypatch):
    """What is on the stack where the gradient is traced, of our own files."""
    stack, make = [], train_step.make_train_step

    def make_watched(network, optimizer, task, recipe):
        step = make(network, optimizer, task, recipe)

        def watched(*arguments):
            stack[:] = traceback.extract_stack()[:-1]
            if any(frame.name == "fit" for frame in stack):
                raise TracedError
            return step(*arguments)  # traced once before, to check that the networks fit the data

        return watched

    monkeypatch.setattr(train_step, "make_train_step", make_watched)
    with pytest.raises(TracedError):
        app.main(["fcn-vs-cnn", "--data", "digits", "--epochs", "1", "--out", str(tmp_path)])
    last = max(index for index, frame in enumerate(stack) if frame.name == "main")
    crossed = [
        (str(Path(frame.filename).relative_to(ROOT)), frame.name)
        for frame in stack[last:]
        if frame.filename.startswith(str(ROOT)) and "<" not in frame.name
    ]
    crossed = list(dict.fromkeys(crossed))
    rows = re.findall(r"^\| (?:`(\S+\.py)`)? ?\| `([\w.]+)` \|", PAGE, re.MULTILINE)
    walk, file = [], ""
    for named, function in rows:
        file = named or file
        walk.append((file, function.split(".")[-1]))
    assert [*crossed, ("cnnjax/train/step.py", "step")] == walk
    assert len({file for file, _ in walk} | {"launch.py"}) <= 6
    assert len(walk) <= 8


def test_without_a_run_nothing_is_kept_on_disk(stranger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = experiments.load(str(stranger))
    dataset = data.load("shapes")
    observed = []

    class Observer(train.Callback):
        def on_step(self, step, state):
            observed.append(step)

        def on_epoch(self, epoch):
            observed.append(epoch.figures["validation"]["distance"])

        def on_end(self):
            observed.append("end")

    recipe = train.Recipe(epochs=2, batch_size=256)
    training = dataset.train.first(512), dataset.test.first(64)
    model = models.create_model("spotter", num_classes=2)
    parallel = train.Parallel(devices=jax.local_devices()[:1])
    fit = train.fit(model, module.Centre(), recipe, *training, parallel=parallel, callbacks=[Observer()])
    distances = fit.history["validation/distance"]
    assert observed == [1, 2, distances[0], 3, 4, distances[1], "end"]
    assert len(fit.history["train/loss"]) == 2
    assert not list(tmp_path.iterdir())


def test_a_task_whose_targets_the_data_lack_is_refused():
    digits = data.load("digits")
    model = models.create_model("lecture-cnn", num_classes=10)

    class Masks(tasks.Task):
        targets = ("masks",)

    with pytest.raises(ValueError, match="the task learns masks, which the data does not have: it has labels"):
        train.fit(model, Masks(), train.Recipe(epochs=1), digits.train, digits.test)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("def claims", "def claim"), "has no claims: docs/extending.md shows"),
        (("@dataclass(frozen=True)\nclass Config(train.Recipe, data.Source)", "class Config"), "Config must be a data"),
        (
            ('"""Find the centre of a shape."""', "bare: int = dataclasses.field()"),
            "cannot be imported .TypeError: ",
        ),
        (("import jax.numpy as jnp", "import jax.nunpy as jnp"), "cannot be imported .ModuleNotFoundError: No module"),
        (("def load(config):", "def load(config:"), "cannot be imported .SyntaxError"),
    ],
)
def test_a_mistake_in_a_strangers_file_gets_one_message(changed, message, tmp_path, capsys):
    source = "import dataclasses\n" + "\n\n".join(BLOCKS).replace("spotter", f"spotter-{abs(hash(changed))}")
    assert changed[0] in source
    file = tmp_path / "spotting.py"
    file.write_text(source.replace(*changed))
    status = app.main([str(file), "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert status == 2
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_another_file_of_the_same_name_is_another_experiment(stranger, tmp_path, capsys):
    """So is the same file after a change: its finished run is not taken for the new one's."""
    changed = tmp_path / stranger.name
    changed.write_text(stranger.read_text().replace("squared_error", "error").replace("spotter", "other-spotter"))
    out = ["--data", "shapes", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert app.main([str(stranger), *out]) == 0
    capsys.readouterr()
    assert app.main([str(changed), *out]) == 2
    assert "file_sha256: " in capsys.readouterr().err
    report = (tmp_path / "run" / "report.md").read_text()
    assert f"python launch.py {stranger} --epochs 1" in report
    assert app.main(["publish", str(tmp_path / "run")]) == 2
    assert "is a run of your own" in capsys.readouterr().err
