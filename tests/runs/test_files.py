"""Files are whole or as they were, whatever a disk or a crash does; what grows goes on once there is room."""

import errno
import logging
import os
from pathlib import Path

import pytest

from cnnjax import runs
from cnnjax.runs import files

STEPS = ("fsync of the file", "chmod", "replace", "fsync of the folder")
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")


class Crash(BaseException):
    """The machine stops."""


class Machine:
    """Notes what is asked of the system, and stops before the given one; then it does nothing any more."""

    def __init__(self, monkeypatch, stop=None):
        self.asked = []
        for name in ("fsync", "chmod", "replace", "unlink"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name), stop))

    def _noting(self, name, function, stop):
        def ask(target, *rest):
            if len(self.asked) == stop:
                raise Crash
            is_folder = name == "fsync" and os.path.isdir(f"/proc/self/fd/{target}")
            self.asked.append({"fsync": f"fsync of the {'folder' if is_folder else 'file'}"}.get(name, name))
            return function(target, *rest)

        return ask


@pytest.fixture
def run(tmp_path):
    run = runs.Run(tmp_path / "run", "test", {"lr": 1})
    run.create()
    return run


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux")
def test_the_text_is_on_disk_before_its_name_and_its_name_before_the_program_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        machine = Machine(patch)
        files.write_text(tmp_path / "summary.json", "{}")
    assert tuple(machine.asked) == STEPS


def test_a_name_that_is_not_utf8_can_be_written(tmp_path):
    name = os.fsdecode("caf\xe9".encode("latin-1"))
    runs.write_text(tmp_path / "report.md", f"--data {name} ü\n")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "--data caf\\udce9 ü\n"


@pytest.mark.parametrize("forgets", [False, True], ids=["", "and the disk forgets what was not synced"])
@pytest.mark.parametrize("stop", range(len(STEPS)), ids=[f"before {step}" for step in STEPS])
def test_a_crash_leaves_a_summary_whole_or_absent_and_the_next_start_tidies(stop, forgets, run, monkeypatch):
    with monkeypatch.context() as patch:
        Machine(patch, stop)
        with pytest.raises(Crash):
            run.finish({"accuracy": 0.5})
    left = list(run.path.glob(f"{files.PARTIAL}*"))
    assert len(left) == (STEPS[stop] != "fsync of the folder")
    if forgets and stop == 0:
        left[0].write_text('{"accu')
    run.check()
    assert run.summary() in (None, {"experiment": "test", "config": {"lr": 1}, "accuracy": 0.5})
    with run.locked():
        assert not list(run.path.glob(f"{files.PARTIAL}*"))
    run.finish({"accuracy": 0.5})
    assert run.summary()["accuracy"] == 0.5


@pytest.mark.parametrize("stop", range(len(STEPS)), ids=[f"before {step}" for step in STEPS])
def test_a_crash_while_a_run_is_made_leaves_what_the_same_command_takes(stop, tmp_path, monkeypatch):
    run = runs.Run(tmp_path / "run", "test", {"lr": 1})
    with monkeypatch.context() as patch:
        Machine(patch, stop)
        with pytest.raises(Crash):
            run.create()
    run.check()
    run.create()
    with run.locked():
        assert runs.read_json(run.path / "config.json") == {"experiment": "test", "lr": 1}
        assert {path.name for path in run.path.iterdir()} == {"config.json", "figures", ".lock"}


def test_what_cannot_be_written_leaves_what_was_there_and_is_named(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_text(path, "old")

    def no_room(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match=r"No space left on device: '.*/summary.json'$"):
        files.write_text(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@full
def test_a_log_goes_on_once_there_is_room_with_nothing_lost(tmp_path, caplog):
    log = files.LogFile(tmp_path / "log", durable=True)
    log.append(b"one\n")
    log.path.rename(tmp_path / "kept")
    log.path.symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        log.append(b"two\n")
        log.append(b"three\n")
        assert [record.message for record in caplog.records] == [
            f"{log.path} cannot be written (No space left on device): training continues, and later lines try again"
        ]
        log.path.unlink()
        (tmp_path / "kept").rename(log.path)
        assert log.read() == b"one\ntwo\nthree\n"  # two of them still in memory
        log.append(b"four\n")
    assert log.path.read_bytes() == log.read() == b"one\ntwo\nthree\nfour\n"
    assert caplog.messages[1:] == [f"{log.path} is written again, with the lines that had to wait"]


def test_a_log_that_is_never_written_takes_no_more_memory_than_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_WAITING", 10)
    log = files.LogFile(tmp_path / "vanished" / "log")
    for _ in range(9):
        log.append(b"1234\n")
    assert log.read() == b"1234\n1234\n"
