"""Flax NNX layers: parameters around the functions of `ops`, with the argument names of `torch.nn`."""

from cnnjax.nn.initializers import SCHEMES
from cnnjax.nn.layers import Conv, ConvTranspose, DepthwiseConv, Flatten, Linear, SeparableConv
from cnnjax.nn.module import Module, watch_calls
from cnnjax.nn.norm import BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm, share_batch_statistics
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
from cnnjax.nn.regularization import Dropout, SpatialDropout, StochasticDepth

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
    "GroupNorm",
    "LPPool",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "MaxPool",
    "MaxUnpool",
    "MinPool",
    "Module",
    "PixelShuffle",
    "SeparableConv",
    "SpatialDropout",
    "StochasticDepth",
    "Upsample",
    "share_batch_statistics",
    "watch_calls",
]
