"""Decoded arrays on disk: made once, then memory-mapped."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.dataset import Dataset, Split

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the folder of data that can be made again: `$CNNJAX_CACHE_DIR`, or `cnnjax` in the user's cache folder."""
    if chosen := os.environ.get("CNNJAX_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnjax"


def cached(key: str, make: Callable[[], Dataset]) -> Dataset:
    """Return `make()` from the cache if it holds `key`; otherwise call it and keep the result.

    The arrays are memory-mapped read-only. A folder appears in one rename, so no reader ever sees half of it; a
    damaged one (a disk that lost data) is reported and made again. If the cache cannot be written, this is
    reported, and the data stays in memory.

    Args:
        key: names the data and everything that decides it, as a file name.
        make: makes the data.
    """
    folder = cache_dir() / "splits" / key
    if folder.is_dir():
        try:
            return _read(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            log.warning("the cached data in %s is damaged (%s): making it again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    dataset = make()
    try:
        _write(folder, dataset)
        return _read(folder)
    except OSError as error:
        log.warning("cannot keep decoded data in %s (%s): it stays in memory; set CNNJAX_CACHE_DIR", folder, error)
        return dataset


def _read(folder: Path) -> Dataset:
    meta: Mapping[str, Any] = json.loads((folder / "meta.json").read_text())
    shapes: Mapping[str, Mapping[str, list[int]]] = meta["shapes"]
    splits = {}
    for part, names in shapes.items():
        arrays = {name: np.load(folder / f"{part}.{name}.npy", mmap_mode="r") for name in names}
        found = {name: list(array.shape) for name, array in arrays.items()}
        if found != names:
            raise ValueError(f"arrays of shapes {found}, expected {names}")
        splits[part] = Split(**arrays)
    validation = splits.get("validation")
    test = splits["test"] if "test" in splits or validation is None else validation
    about = meta["name"], meta["version"], tuple(meta["class_names"])
    return Dataset(*about, splits["train"], test, validation, meta.get("ignore_index"))


def _write(folder: Path, dataset: Dataset) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    parts = {"train": dataset.train}
    parts |= {"validation": dataset.validation} if dataset.validation else {}
    parts |= {"test": dataset.test} if dataset.test is not dataset.validation else {}
    splits = {part: split.first(split.size).arrays for part, split in parts.items()}
    meta = {
        "name": dataset.name,
        "version": dataset.version,
        "class_names": dataset.class_names,
        "ignore_index": dataset.ignore_index,
        "shapes": {part: {name: array.shape for name, array in arrays.items()} for part, arrays in splits.items()},
    }
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for part, arrays in splits.items():
            for name, array in arrays.items():
                np.save(partial / f"{part}.{name}.npy", array)
        (partial / "meta.json").write_text(json.dumps(meta))
        for file in partial.iterdir():  # the rename must not reach the disk before the data
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        with contextlib.suppress(FileExistsError, OSError):  # another process was first: its copy is as good
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
