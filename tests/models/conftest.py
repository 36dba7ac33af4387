"""What all tests in this folder share."""

from tests.interop.conftest import quick_compilation  # noqa: F401
