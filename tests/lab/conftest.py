"""What the tests of commands that need an extra share."""

import pytest


@pytest.fixture
def submitit(monkeypatch):
    """The package, without the handlers of logging that it would put in the place of pytest's; skips without it."""
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    return pytest.importorskip("submitit")
