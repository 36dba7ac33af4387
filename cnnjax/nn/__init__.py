"""Flax NNX layers: parameters around the functions of `ops`, with the argument names of `torch.nn`."""

from cnnjax.nn.initializers import SCHEMES
from cnnjax.nn.layers import Conv, Dropout, Flatten, Linear, MaxPool
from cnnjax.nn.module import Module, watch_calls
from cnnjax.nn.norm import BatchNorm

__all__ = [
    "SCHEMES",
    "BatchNorm",
    "Conv",
    "Dropout",
    "Flatten",
    "Linear",
    "MaxPool",
    "Module",
    "watch_calls",
]
