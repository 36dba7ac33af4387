"""A prepared TFDS data set that tests may read and break."""

import shutil

import pytest

from tests import tiny_tfds


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tiny_tfds.prepare(folder)
    return folder


@pytest.fixture
def tfds_dir(prepared, tmp_path, monkeypatch):
    """A copy of the prepared data set that a test may break, found by TFDS's own rules."""
    shutil.copytree(prepared, tmp_path / "tfds")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path / "cache"))
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds" / "tiny_squares" / "1.0.0"
