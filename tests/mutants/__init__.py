"""Small faults put into the package one at a time: `python -m tests.mutants` counts how many of them the tests see."""
