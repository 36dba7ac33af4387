"""Flax NNX layers: parameters around the functions of `ops`, with the argument names of `torch.nn`."""

from cnnjax.nn.initializers import SCHEMES
from cnnjax.nn.layers import Conv, ConvTranspose, DepthwiseConv, Dropout, Flatten, Linear, SeparableConv
from cnnjax.nn.module import Module, watch_calls
from cnnjax.nn.norm import BatchNorm, LocalResponseNorm
from cnnjax.nn.pool import (
    AdaptiveAvgPool,
    AvgPool,
    BedOfNails,
    GlobalAvgPool,
    GlobalMaxPool,
    LPPool,
    MaxPool,
    MaxUnpool,
    MinPool,
    PixelShuffle,
    Upsample,
)

__all__ = [
    "SCHEMES",
    "AdaptiveAvgPool",
    "AvgPool",
    "BatchNorm",
    "BedOfNails",
    "Conv",
    "ConvTranspose",
    "DepthwiseConv",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "LPPool",
    "Linear",
    "LocalResponseNorm",
    "MaxPool",
    "MaxUnpool",
    "MinPool",
    "Module",
    "PixelShuffle",
    "SeparableConv",
    "Upsample",
    "watch_calls",
]
