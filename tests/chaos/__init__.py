"""Break a run in every way that a machine can, and see that nothing is lost: `python -m tests.chaos`."""
