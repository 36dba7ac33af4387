"""Flax NNX layers: parameters around the functions of `ops`, with the argument names of `torch.nn`."""

from cnnjax.nn.initializers import SCHEMES
from cnnjax.nn.layers import Conv, ConvTranspose, DepthwiseConv, Flatten, Linear, SeparableConv
from cnnjax.nn.module import Module, replace_module, watch_calls
from cnnjax.nn.norm import BatchNorm, GroupNorm, LayerNorm, LocalResponseNorm, share_batch_statistics
from cnnjax.nn.normalized import Normalized, normalize, normalized, without_normalization
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
from cnnjax.nn.sequential import Activation, Identity, Sequential, path_name

__all__ = [
    "SCHEMES",
    "Activation",
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
    "Identity",
    "LPPool",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "MaxPool",
    "MaxUnpool",
    "MinPool",
    "Module",
    "Normalized",
    "PixelShuffle",
    "SeparableConv",
    "Sequential",
    "SpatialDropout",
    "StochasticDepth",
    "Upsample",
    "normalize",
    "normalized",
    "path_name",
    "replace_module",
    "share_batch_statistics",
    "watch_calls",
    "without_normalization",
]
