"""Write the network of a run of train, of published weights, or of a file of weights for other programs.

    python launch.py export results/runs/RUN --to stablehlo --out net.stablehlo    # runs with JAX alone
    python launch.py export results/runs/RUN --to torch --out net.pth
    python launch.py export results/runs/RUN --to safetensors --out net.safetensors
    python launch.py export results/runs/RUN --to npz --out net.npz
    python launch.py export resnet18 --to stablehlo    # published weights; needs huggingface_hub

stablehlo is the whole program, for batches of any size on CPU, GPU and TPU; the command prints the few lines that use
it. torch is a state dict, and safetensors a file, under the names of torchvision or timm where they have the network;
npz has the names of this package, kernels as (height, width, in, out).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cnnjax import interop, train
from cnnjax.errors import UserError
from cnnjax.interop.program import BOX_LOADER, LOADER, MASK_LOADER, loader
from cnnjax.lab.finished import trained_of
from cnnjax.lab.imported import Imported, Origin
from cnnjax.lab.options import parse
from cnnjax.models.registry import lookup
from cnnjax.options import Checked

MOST_SHOWN = 20  # classes in a script; more are a file beside the program
SCRIPTS = {"segmentation": MASK_LOADER, "localization": BOX_LOADER}
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pth", "npz": ".npz", "stablehlo": ".stablehlo"}


@dataclass(frozen=True)
class Export(Checked):
    """What is written, and how."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|NAME|FILE")] = ""
    """Directory of a run of train, its weights.safetensors, or its name in results/runs; or the name of a network, for
    its published weights; or a file of weights, with the options of "origin"."""
    to: Literal["safetensors", "torch", "npz", "stablehlo"] = "safetensors"
    """Format of the file."""
    out: Path | None = None
    """File to write; default: the network's name with the format's ending, in this folder."""
    overwrite: bool = False
    """Replace the file if it is there."""


def main(arguments: Sequence[str]) -> int:
    """Export, and say how the file is used."""
    options, origin = parse("export", __doc__, arguments, Export, Origin)
    trained = trained_of("export", options.run, origin)
    name = trained.about["model"]
    out = options.out or Path(f"{name}{SUFFIXES[options.to]}")
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(
            f"{out} (`out`) is {'a folder' if out.is_dir() else 'in a folder that is not there'}: give a file"
        )
    if out.exists() and not options.overwrite:
        raise UserError(f"{out} is there already: choose another `out`, or replace it with `overwrite`")
    writers: dict[str, Callable[[train.Trained, Path], str]] = {
        "safetensors": _safetensors,
        "torch": _torch,
        "npz": _npz,
        "stablehlo": _stablehlo,
    }
    said = writers[options.to](trained, out)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB). {said}")
    return 0


def _names(trained: train.Trained) -> str:
    reference = lookup(trained.about["model"]).reference
    return f"names of {reference}" if reference else "names of this package, arrays laid out as torch's"


def _inputs(trained: train.Trained) -> str:
    mean, std = (trained.about.get(name) for name in ("mean", "std"))
    return f"images are floats in [0, 1], then (image - {mean}) / {std}" if mean else "images are floats in [0, 1]"


def _safetensors(trained: train.Trained, out: Path) -> str:
    interop.save_safetensors(trained.model, out)
    return f"It has the {_names(trained)}; {_inputs(trained)}."


def _torch(trained: train.Trained, out: Path) -> str:
    try:
        import torch
    except ImportError:
        raise UserError("writing torch's files needs torch: pip install torch, or choose `to=safetensors`") from None
    torch.save({key: torch.tensor(array) for key, array in interop.to_torch(trained.model).items()}, out)
    return f"torch.load({str(out)!r}) is a state dict with the {_names(trained)}; {_inputs(trained)}."


def _npz(trained: train.Trained, out: Path) -> str:
    interop.save_npz(trained.model, out)
    return f"numpy.load({str(out)!r}) has the arrays by their names; {_inputs(trained)}."


def _stablehlo(trained: train.Trained, out: Path) -> str:
    interop.save_program(trained.model, out, trained.image_shape)
    preprocess = trained.preprocess if isinstance(trained, Imported) else None
    script = SCRIPTS.get(trained.about["task"], LOADER)
    names: list[str] | str = list(trained.classes)
    if len(names) > MOST_SHOWN:
        file = out.with_name(f"{out.name}.classes.txt")
        file.write_text("\n".join(names) + "\n", "utf-8")
        names = str(file)
    return f"To use it:\n\n{loader(str(out), names, trained.image_shape, preprocess, script)}"
