"""Convolutional networks in JAX: exact, fast on every device, and readable."""

__version__ = "0.1.0"
