"""Files that survive: written whole or not at all, or appended to when the disk has room."""

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError

PARTIAL = ".partial-"  # how the name of an incomplete file begins
MOST_WAITING = 64 << 20  # bytes kept in memory while a file cannot be written
log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file's object; None if there is no such file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it or its directory") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: delete it or its directory")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees all of it or none."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader sees all of it or none, even after a power failure.

    Raises:
        OSError: it cannot be written; the earlier content is still there.
    """
    try:
        handle, partial = tempfile.mkstemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent)
        try:
            # Names of files that are not UTF-8, as options can hold, are written as "\udce9".
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())  # the rename must not reach the disk before the text
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        _sync_folder(path.parent)
    except OSError as error:  # which names the partial file, or none
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    """Make sure that a folder's new names are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems do not know how
            os.fsync(handle)
    finally:
        os.close(handle)


def delete_partial(folder: Path) -> None:
    """Delete what killed processes left half-written."""
    for path in folder.glob(f"{PARTIAL}*"):
        path.unlink(missing_ok=True)


class LogFile:
    """A file that grows. Content that cannot be written waits in memory and is written with the next.

    Args:
        path: of the file; its content stays.
        durable: whether `append` waits until the content is on disk.
    """

    def __init__(self, path: Path, durable: bool = False):
        self.path, self.durable = path, durable
        self._waiting, self._failed = b"", False

    def append(self, content: bytes) -> None:
        """Write at the end; report once that this fails, and once that it works again."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting += content
        try:
            with self.path.open("ab", buffering=0) as file:
                while self._waiting:
                    self._waiting = self._waiting[file.write(self._waiting) :]
                if self.durable:
                    os.fsync(file.fileno())
        except OSError as error:
            self._say(error)
        else:
            if self._failed:
                log.warning("%s is written again, with the lines that had to wait", self.path)
            self._failed = False

    def replace(self, content: bytes) -> bool:
        """Replace the content; where that fails, report it, leave the file as it is and return False."""
        try:
            write_text(self.path, content.decode())
        except OSError as error:
            self._say(error)
            return False
        self._waiting = b""
        return True

    def read(self) -> bytes:
        """Return the content, including what still waits to be written."""
        there = self.path.read_bytes() if self.path.exists() else b""
        return there + self._waiting

    def _say(self, error: OSError) -> None:
        if not self._failed:
            log.warning(
                "%s cannot be written (%s): training continues, and later lines try again", self.path, error.strerror
            )
        self._failed = True
