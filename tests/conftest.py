"""Eight virtual devices for every test, and caches of the tests' own."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache; the tests of one worker share one."""
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def one_device():
    from cnnjax.train import Parallel

    return Parallel(devices=jax.local_devices()[:1])
