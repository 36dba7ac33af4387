"""Eight virtual devices for every test, caches of the tests' own, and how many random cases a property gets."""

import os
import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, Phase, settings

jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="cnnjax: test properties on 5,000 random calls each, new ones every time, instead of the same 60",
    )
    parser.addoption(
        "--record",
        type=Path,
        metavar="FILE",
        help="cnnjax: write to FILE how often what was tried, how often it passed, and how long it took (Markdown)",
    )


def pytest_configure(config):
    # Compiling a case takes tens of milliseconds on a good day: no deadlines.
    phases = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]  # explanations are lines of JAX
    common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "phases": phases}
    settings.register_profile("ordinary", max_examples=60, derandomize=True, **common)
    settings.register_profile("long", max_examples=5000, **common)
    settings.load_profile("long" if config.getoption("long") else "ordinary")


def pytest_terminal_summary(terminalreporter, config):
    if file := config.getoption("record"):
        outcomes = ("passed", "failed", "error", "skipped")
        reports = [report for outcome in outcomes for report in terminalreporter.stats.get(outcome, [])]
        file.write_text(record(" ".join(config.invocation_params.args), reports))


def record(arguments, reports):
    """The statements of the tests, how often each was tried and held, and the mean seconds, as Markdown."""
    of = defaultdict(list)
    for report in sorted(reports, key=lambda report: report.start):
        of[report.nodeid.partition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")].append(report)
    held = {name: sum(report.outcome == "passed" for report in tries) for name, tries in of.items()}
    rows = [
        f"| {name} | {len(tries)} | {held[name]} | {sum(report.duration for report in tries) / len(tries):.0f} |"
        for name, tries in of.items()
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "orbax-checkpoint"))
    return "\n".join(
        [
            f"Written by `pytest {arguments}`: {sum(held.values())} of {len(reports)} passed.\n",
            "| what was tried | how often | passed | seconds each |",
            "| --- | --- | --- | --- |",
            *rows,
            f"\nOn {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {versions}.\n",
        ]
    )


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Tests compile the same steps again and again: all workers of a run share one cache of programs."""
    own = tmp_path_factory.getbasetemp()
    whole_run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # which several runs share, as those of tests.mutants
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
