"""Eight virtual devices for every test, caches of the tests' own, and how many random cases a property gets."""

import os

import jax
import pytest
from hypothesis import HealthCheck, Phase, settings

jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="cnnjax: test properties on 5,000 random cases each, new ones every time, instead of the same 200",
    )


def pytest_configure(config):
    # Compiling a case takes tens of milliseconds on a good day: no deadlines.
    phases = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]  # explanations are lines of JAX
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "phases": phases}
    settings.register_profile("ordinary", max_examples=200, derandomize=True, **common)
    settings.register_profile("long", max_examples=5000, **common)
    settings.load_profile("long" if config.getoption("long") else "ordinary")


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Tests compile the same steps again and again: all workers of a run share one cache of programs."""
    own = tmp_path_factory.getbasetemp()
    whole_run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    jax.config.update("jax_compilation_cache_dir", str(whole_run / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache; the tests of one worker share one."""
    monkeypatch.setenv("CNNJAX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def one_device():
    from cnnjax.train import Parallel

    return Parallel(devices=jax.local_devices()[:1])
