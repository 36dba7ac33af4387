"""What all tests in this folder share."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compilation():
    """Compile without LLVM's optimisations: most programs here run once, and take longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
