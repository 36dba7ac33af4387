"""Benchmarks, and the peers that they compare with: `python launch.py bench WHAT`."""
