"""Curves are read back as they were written, less what a crash took; TensorBoard's files are well formed."""

import logging
import math
import struct
import time

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from cnnjax import runs
from cnnjax.errors import RunError
from cnnjax.runs.events import EventFile
from cnnjax.runs.files import LogFile
from cnnjax.runs.metrics import read_rows
from tests.runs.test_files import full


@pytest.fixture
def metrics(tmp_path):
    return LogFile(tmp_path / "metrics.jsonl")


def record(metrics, *epochs, tag="net", first_step=0):
    recorder = runs.Recorder(metrics, tag, first_step)
    for epoch in epochs:
        recorder.write(10 * epoch, epoch, "train", {"loss": 1 / epoch, "accuracy": epoch / 10})
    return recorder


def losses(metrics, tag="net"):
    return runs.read_history(metrics, tag)["train/loss"]


def test_a_training_that_goes_on_from_a_state_has_every_epoch_once(metrics):
    record(metrics, 1, 2, 3)
    record(metrics, 1, tag="other")
    record(metrics, 2, 3, 4, first_step=10)
    assert losses(metrics) == [1, 1 / 2, 1 / 3, 1 / 4]
    assert len(list(read_rows(metrics))) == 10
    assert losses(metrics.path, "other") == [1]


def test_a_line_that_a_kill_left_half_written_takes_no_other_with_it(metrics):
    record(metrics, 1, 2)
    metrics.path.write_bytes(metrics.path.read_bytes()[:-20])
    record(metrics, 2, first_step=10)
    assert losses(metrics) == [1, 1 / 2]


def test_an_epoch_whose_lines_were_lost_is_nan_in_its_place(metrics):
    record(metrics, 1, 3)
    first, second, third = losses(metrics)
    assert (first, third) == (1, 1 / 3)
    assert math.isnan(second)


def test_a_finished_training_without_a_line_is_said(metrics):
    record(metrics, 1)
    with pytest.raises(RunError, match=r"metrics.jsonl has no line of other, which is trained: put it back"):
        runs.read_history(metrics, "other")


@full
def test_a_full_disk_at_a_resume_costs_no_line(metrics, caplog, monkeypatch):
    record(metrics, 1, 2)
    lines = metrics.path.read_bytes()
    metrics.path.write_bytes(lines[:-20])

    def no_room(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("tempfile.mkstemp", no_room)
        record(metrics, 2, first_step=10)
    assert "metrics.jsonl cannot be written (No space left on device): training continues" in caplog.text
    assert losses(metrics.path) == [1, 1 / 2]


# ---------------------------------------------------------------- TensorBoard


def events(path):
    """The events of a file, and nothing after them."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_an_event_file_has_the_bytes_of_tensorboardx(tmp_path):
    (tmp_path / "net").mkdir()
    ours = EventFile(tmp_path / "net", 0)
    for step in range(3):
        ours.add_scalar("loss", 1 / (1 + step), step)
    (path,) = (tmp_path / "net").iterdir()
    theirs = RecordWriter(str(tmp_path / "theirs"))
    for event in events(path):
        theirs.write(event.SerializeToString())
    theirs.close()
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
    assert [event.summary.value[0].simple_value for event in events(path)[2:]] == pytest.approx([1, 1 / 2, 1 / 3])


def test_event_files_are_read_in_the_order_they_were_written_though_the_clock_goes_backwards(tmp_path, monkeypatch):
    for now in (2e9, 1e9, 1e9, 1.5e9):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        EventFile(tmp_path, int(now))
    starts = [events(path)[1].step for path in sorted(tmp_path.iterdir())]
    assert starts == [2e9 + 1, 1e9 + 1, 1e9 + 1, 1.5e9 + 1]


@full
def test_a_full_disk_under_tensorboard_holds_nothing_up(tmp_path, caplog):
    board = EventFile(tmp_path, 0)
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.symlink_to("/dev/full")
    for step in range(100):  # more than the queue of tensorboardX holds
        board.add_scalar("loss", 1.0, step)
    assert caplog.text.count("No space left on device") == 1
    path.unlink()
    board.add_scalar("loss", 1.0, 100)
    assert [event.step for event in events(path)] == list(range(101))
