"""TensorBoard event files."""

import contextlib
import re
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.runs.files import LogFile

NAME = "events.out.tfevents.{}.cnnjax"
BINS = 64  # of a histogram; TensorBoard draws 30


class EventFile:
    """The event file of one process, which TensorBoard reads after those that are there.

    tensorboardX makes the content. Its writer is not used, because it is a thread: a full disk ends it, and then the
    training waits for it for ever.

    Args:
        folder: of the event files of one training; made if need be.
        step: the step that training resumes from; TensorBoard drops what earlier files have after it.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX import summary  # slow to import
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event, self._summary = Event, summary
        with contextlib.suppress(OSError):  # reported when the file is written
            folder.mkdir(parents=True, exist_ok=True)
        self._file = LogFile(folder / NAME.format(_number(folder)))
        self._add(file_version="brain.Event:2")
        self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Show a value."""
        self._add(step=step, summary=self._summary.scalar(name, value))

    def add_images(self, name: str, images: np.ndarray, step: int) -> None:
        """Show images (batch, height, width, channels), bytes or floats in [0, 1]."""
        self._add(step=step, summary=self._summary.image(name, images, dataformats="NHWC"))

    def add_histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Show how values are distributed."""
        self._add(step=step, summary=self._summary.histogram(name, values, BINS))

    def _add(self, **content: Any) -> None:
        self._file.append(_record(self._event(wall_time=time.time(), **content).SerializeToString()))


def _number(folder: Path) -> int:
    """The time in seconds, or more than any file's number: TensorBoard reads by name, and clocks go backwards."""
    numbers = [int(digits) for path in folder.glob("*") for digits in re.findall(r"tfevents\.(\d+)", path.name)]
    return max([int(time.time()), *(number + 1 for number in numbers)])


def _record(content: bytes) -> bytes:
    """A record of the TFRecord format: its length and its bytes, each with a checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, content))
