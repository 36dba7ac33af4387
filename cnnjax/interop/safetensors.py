"""Weights in safetensors files, under the names and in the layouts of torch, so that other libraries read them too."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cnnjax.errors import UserError
from cnnjax.interop.state_dict import load_torch, to_torch
from cnnjax.nn import Module


def save_safetensors(model: Module, path: str | Path) -> None:
    """Write parameters and batch statistics to a file, under the names that `load_torch` takes."""
    save_file(to_torch(model), path)


def load_safetensors(model: Module, path: str | Path) -> None:
    """Put the arrays of a file that `save_safetensors`, torchvision or timm has written into a model.

    Raises:
        UserError: there is no such file, or it is no safetensors file.
        ValueError: as `load_torch`.
    """
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise UserError(f"there is no file {path} to load weights from") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file that can be read ({error})") from error
    load_torch(model, arrays)
