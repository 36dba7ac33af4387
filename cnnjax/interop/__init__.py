"""Weights from and to other libraries: they are data, and nothing in them is ever executed."""

from cnnjax.interop.safetensors import load_safetensors, save_safetensors
from cnnjax.interop.state_dict import load_torch, to_torch

__all__ = ["load_safetensors", "load_torch", "save_safetensors", "to_torch"]
