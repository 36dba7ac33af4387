"""Weights in safetensors files, under the names and in the layouts of torch, so that other libraries read them too."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from cnnjax.errors import UserError
from cnnjax.interop import settings
from cnnjax.interop.state_dict import load_torch, to_torch
from cnnjax.nn import Module

SETTINGS = "cnnjax.layers"  # of the metadata: what is no array


def save_safetensors(model: Module, path: str | Path) -> None:
    """Write parameters and batch statistics to a file, under the names that `load_torch` takes.

    Its metadata has the constants, strides and padding that weights of timm, TensorFlow or Keras need.

    Raises:
        UserError: the file cannot be written, e.g. because there is no such folder.
    """
    try:
        save_file(to_torch(model), path, {SETTINGS: settings.describe(model)})
    except (SafetensorError, OSError) as error:
        raise UserError(f"weights cannot be written to {path} ({error})") from error


def has_settings(path: str | Path) -> bool:
    """Return whether `save_safetensors` has written a file; False of one that cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            return SETTINGS in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_safetensors(model: Module, path: str | Path, *, prefix: str | None = None) -> None:
    """Put the arrays of a file that `save_safetensors`, torchvision or timm has written into a model.

    A file that `save_safetensors` has written also restores constants, strides and padding.

    Args:
        model: the network; its parameters and batch statistics are replaced.
        path: of the file.
        prefix: as `load_torch`.

    Raises:
        UserError: there is no such file, it is no safetensors file, or `save_safetensors` wrote it of other layers.
        ValueError: as `load_torch`.
    """
    try:
        arrays = load_file(path)
        with safe_open(path, "numpy") as file:
            text = (file.metadata() or {}).get(SETTINGS)
    except FileNotFoundError:
        raise UserError(f"there is no file {path} to load weights from") from None
    except (SafetensorError, OSError, AttributeError) as error:  # the last of a dtype that NumPy does not have
        raise UserError(f"{path} is no safetensors file that can be read ({error})") from error
    try:
        attributes = {} if text is None else settings.parse(model, text)
    except UserError as error:
        raise UserError(f"{path} does not fit: {error}") from error
    load_torch(model, arrays, prefix=prefix)
    settings.apply(model, attributes)
