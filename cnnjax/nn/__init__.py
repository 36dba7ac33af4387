"""Flax NNX layers: parameters around the functions of `ops`, with the argument names of `torch.nn`."""

from cnnjax.nn.initializers import SCHEMES
from cnnjax.nn.layers import Conv, ConvTranspose, DepthwiseConv, Dropout, Flatten, Linear, SeparableConv
from cnnjax.nn.module import Module, watch_calls
from cnnjax.nn.norm import BatchNorm, LocalResponseNorm
from cnnjax.nn.pool import (
    AdaptiveAvgPool,
    AvgPool,
    GlobalAvgPool,
    LPPool,
    MaxPool,
    MaxUnpool,
    PixelShuffle,
    Upsample,
)

__all__ = [
    "SCHEMES",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "LPPool",
    "Linear",
    "LocalResponseNorm",
    "MaxPool",
    "MaxUnpool",
    "Module",
    "PixelShuffle",
    "SeparableConv",
    "Upsample",
    "watch_calls",
]
