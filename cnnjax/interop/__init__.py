"""Weights from and to other libraries. They are read as data; nothing in them is ever executed."""

from cnnjax.interop.hub import Pretrained, from_pretrained
from cnnjax.interop.keras import as_keras, keras_preprocess, load_keras
from cnnjax.interop.preprocess import Preprocess
from cnnjax.interop.program import save_npz, save_program
from cnnjax.interop.pth import load_pth
from cnnjax.interop.safetensors import load_safetensors, save_safetensors
from cnnjax.interop.state_dict import load_torch, to_torch

__all__ = [
    "Preprocess",
    "Pretrained",
    "as_keras",
    "from_pretrained",
    "keras_preprocess",
    "load_keras",
    "load_pth",
    "load_safetensors",
    "load_torch",
    "save_npz",
    "save_program",
    "save_safetensors",
    "to_torch",
]
