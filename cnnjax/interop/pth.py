"""Weights in torch's own files, which are pickles: read by torch, which only makes arrays of them."""

from collections.abc import Mapping
from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.interop.state_dict import load_torch
from cnnjax.nn import Module


def load_pth(model: Module, path: str | Path, *, entry: str | None = None, prefix: str | None = None) -> None:
    """Put the arrays of a `.pth` file into a model of that architecture, as `load_torch`.

    torch reads it with `weights_only=True`: arrays and containers of them, and nothing that could run.

    Args:
        model: the network; its parameters and batch statistics are replaced.
        path: of the file, a state dict or a checkpoint with one in it.
        entry: as `load_torch`.
        prefix: as `load_torch`.

    Raises:
        UserError: torch is not installed, there is no such file, it is no torch file, or it holds anything else; or as
            `load_torch`.
        ValueError: as `load_torch`.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {path} needs torch: pip install torch, or convert it to safetensors, which needs none"
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path} to load weights from") from None
    except torch.serialization.pickle.UnpicklingError as error:
        # The rest of torch's message recommends to read the file in a way that runs code in it.
        reason = str(error).partition("WeightsUnpickler error: ")[2].partition("\n")[0] or str(error).partition(".")[0]
        reason = reason.partition(" Please use")[0]
        if "Unsupported global" not in str(error) and "GLOBAL" not in str(error):
            raise UserError(f"{path} is no torch file that can be read ({reason})") from error
        raise UserError(
            f"{path} was refused: it holds something else than arrays, and a pickle can run any code. Nothing in it "
            f"was run ({reason})"
        ) from error
    except Exception as error:  # of any kind, from torch's readers of several formats
        if "TorchScript" in str(error):
            raise UserError(f"{path} holds a TorchScript program: load_torch takes its state_dict()") from error
        if "legacy .tar" in str(error):
            raise UserError(f"{path} is in torch's oldest format, .tar: save it anew with torch") from error
        raise UserError(f"{path} is no torch file that can be read ({error})") from error
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds no weights by name but a {type(state).__name__}")
    try:
        load_torch(model, state, entry=entry, prefix=prefix)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
