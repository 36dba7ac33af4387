"""What the benchmark of streams draws, what it reports, and what it says of mistakes; not how fast anything is."""

import hashlib
import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import shapes
from cnnjax.data.augment import Sample
from cnnjax.errors import UserError
from experiments.bench import stream as bench_stream
from experiments.bench import timing

IMAGES = 100


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "set"
    bench_stream.draw_set(folder, IMAGES)
    return folder


@pytest.fixture
def small(monkeypatch):
    """Batches and turns that a hundred images are enough for, of images that a step takes no time for."""
    for name, value in {"IMAGE_SIZE": 16, "BATCH": 10, "TURN": 2, "REMEMBERED": 2}.items():
        monkeypatch.setattr(bench_stream, name, value)


def test_a_set_has_every_image_once_and_every_class_in_both_splits(drawn):
    images = files(drawn)
    assert len({hashlib.sha256(encoded).digest() for encoded in images.values()}) == len(images) == IMAGES + 10
    dataset = bench_stream.load_set(drawn, IMAGES)
    assert isinstance(dataset.train, data.Stream)
    assert (dataset.train.size, dataset.test.size, dataset.image_shape) == (IMAGES, 10, (64, 64, 3))
    assert dataset.class_names == tuple(sorted(shapes.CLASS_NAMES))
    assert sorted(np.bincount(dataset.train.first(IMAGES).labels)) == [10] * 10


def test_a_set_is_drawn_to_the_same_bytes_every_time_and_only_once(drawn, tmp_path):
    bench_stream.draw_set(tmp_path / "again", IMAGES)
    assert files(tmp_path / "again") == files(drawn)
    before = (tmp_path / "again").stat().st_mtime_ns
    bench_stream.draw_set(tmp_path / "again", IMAGES)
    assert (tmp_path / "again").stat().st_mtime_ns == before


def test_blocks_drawn_one_by_one_repeat_no_image(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_stream, "BLOCK", 30)
    bench_stream.draw_set(tmp_path / "set", IMAGES)
    assert len(set(files(tmp_path / "set").values())) == IMAGES + 10


def test_what_a_killed_process_left_is_drawn_anew(drawn, tmp_path, monkeypatch, caplog):
    folder, draw_block = tmp_path / "set", bench_stream._draw_block

    def killed(root, split, first, count):
        draw_block(root, split, first, count // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_stream, "_draw_block", killed)
    with pytest.raises(KeyboardInterrupt):
        bench_stream.draw_set(folder, IMAGES)
    assert not folder.exists()
    monkeypatch.undo()
    bench_stream.draw_set(folder, IMAGES)
    assert "left by a process that did not finish" in caplog.text
    assert files(folder) == files(drawn)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("spoil", "images", "message"),
    [
        (lambda folder: None, IMAGES + 1, "holds another set .*'images': 100.*: choose an empty or a new `folder`"),
        (lambda folder: (folder / "set.json").unlink(), IMAGES, "holds something that is no set of this benchmark"),
        (lambda folder: next(folder.glob("train/*/*.jpg")).unlink(), IMAGES, "holds 99 training images, not the 100"),
        (lambda folder: (folder / "set.json").write_text("{"), IMAGES, "set.json cannot be read"),
    ],
)
def test_a_folder_of_something_else_is_named(drawn, tmp_path, spoil, images, message):
    shutil.copytree(drawn, tmp_path / "set")
    spoil(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        bench_stream.load_set(tmp_path / "set", images)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is or holds something that is no set"):
        bench_stream.load_set(tmp_path / "file", IMAGES)
    with pytest.raises(UserError, match=r"cannot draw images to .*file/set \(Not a directory\): choose a `folder`"):
        bench_stream.load_set(tmp_path / "file" / "set", IMAGES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "127"], "`images` must be at least 128, a batch, got 127"),
        (["--steps", "0"], "`steps` must be an integer of at least 1, got 0"),
        (["--images", "256", "--steps", "3"], "`steps` must be 1 to 2, a pass over 256 images, got 3"),
        (["--workers", "-1"], "`workers` must be an integer of at least 0, got -1"),
    ],
)
def test_options_out_of_range_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        bench_stream.main(arguments)


def test_a_pass_is_reported_and_only_that_over_the_whole_default_set_is_written(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_stream, "IMAGES", IMAGES)
    monkeypatch.setattr(timing, "FOLDER", tmp_path / "results")
    taken = itertools.count(10**9, 10**6)  # of memory, a megabyte more at every look
    monkeypatch.setattr(bench_stream, "resident_memory", lambda: next(taken))
    arguments = ["--images", str(IMAGES), "--folder", str(tmp_path / "set")]
    assert bench_stream.main([*arguments, "--steps", "3"]) == 0
    assert "training on 30 images from a stream" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()
    assert bench_stream.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "training on 100 images from a stream" in printed
    assert "waiting for the stream, % of the time" in printed
    results = json.loads((tmp_path / "results" / "stream.json").read_text())
    assert (results["images"], results["batch_size"], results["workers"]) == (IMAGES, 10, 0)
    assert set(results["images_per_second"]) == set(results["waiting_percent"]) == {"stream", "memory"}
    assert 0 <= results["waiting_percent"]["stream"] <= 100
    assert len(results["most_memory_bytes_by_turn"]) == 5
    assert results["most_memory_bytes_by_turn"] == sorted(results["most_memory_bytes_by_turn"])
    grown = 100 * (results["most_memory_bytes"] / results["warm_memory_bytes"] - 1)
    assert results["memory_growth_percent"] == pytest.approx(grown, abs=0.1)
    assert grown > 0


def test_waiting_counts_only_while_the_device_has_nothing_to_do(small, monkeypatch):
    class Slow:
        """A stream each of whose batches takes a second, on a clock that only this stream moves."""

        now = 0.0

        def batches(self, indices, weights):
            for number in range(len(indices)):
                Slow.now += 1
                images, labels = np.full((10, 16, 16, 3), number, np.uint8), np.zeros(10, np.int32)
                yield Sample(images, labels, weights=weights[number])

    monkeypatch.setattr(bench_stream, "time", SimpleNamespace(perf_counter=lambda: Slow.now))
    indices, weights = np.zeros((4, 10), np.int32), np.ones((4, 10), np.float32)
    feed = bench_stream.Feed(Slow(), indices, weights)
    for _ in feed.turn():
        feed._state.step.block_until_ready()
    assert (feed.steps, feed.seconds, feed.waiting_percent) == (2, 2.0, 100.0)
    for _ in feed.turn():
        feed._state = SimpleNamespace(step=SimpleNamespace(is_ready=lambda: False))
    assert (feed.steps, feed.seconds) == (4, 4.0)
    assert feed.waiting_percent == 75.0  # the last batch came beside a step that was not done
