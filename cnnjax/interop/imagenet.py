"""What the 1,000 outputs of a network trained on ImageNet stand for, as far as an installed package says it."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

CLASSES = 1000


def synsets() -> tuple[str, ...]:
    """Return WordNet's identifiers of the classes, "n01440764", in the order of the outputs; none if they are unknown.

    They name the folders of ImageNet's files, and the outputs have their order. TFDS has a list of them.
    """
    names = _lines("tensorflow_datasets", "image_classification/imagenet_resized_labels.txt")
    return tuple(sorted(names)) if len(names) == CLASSES else ()


def class_names() -> tuple[str, ...]:
    """Return a name for every output, "tench": words of timm or torchvision, else WordNet's identifiers, else numbers.

    Of names that several classes have, such as "crane", each is followed by the identifier.
    """
    ids = synsets()
    names = (ids and _of_timm(ids)) or _of_torchvision() or ids or tuple(map(str, range(CLASSES)))
    often = Counter(names)
    identified = zip(names, ids or map(str, range(CLASSES)), strict=True)
    return tuple(f"{name} ({one})" if often[name] > 1 else name for name, one in identified)


def _of_timm(ids: tuple[str, ...]) -> tuple[str, ...]:
    rows = (line.partition("\t") for line in _lines("timm", "data/_info/imagenet_synset_to_lemma.txt"))
    words = {one: lemmas.partition(",")[0].strip() for one, _, lemmas in rows}
    return tuple(words[one] for one in ids) if words.keys() >= set(ids) else ()


def _of_torchvision() -> tuple[str, ...]:
    try:
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    except Exception:  # it is not installed, or not with a torch that it fits
        return ()


def _lines(package: str, file: str) -> list[str]:
    """Return the lines of a package's file without importing the package; none if it is not there."""
    spec = find_spec(package)
    paths = [Path(folder) / file for folder in (spec and spec.submodule_search_locations) or ()]
    return next((path.read_text("utf-8").splitlines() for path in paths if path.is_file()), [])
