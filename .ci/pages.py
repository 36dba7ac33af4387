"""The pages of the site that are not files in docs/: one for each package of cnnjax, made from its docstrings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)")


def modules() -> Iterator[str]:
    """Yield the packages and modules directly inside cnnjax that a person would import."""
    for path in sorted((ROOT / "cnnjax").iterdir()):
        if (path / "__init__.py").exists() or (path.suffix == ".py" and not path.name.startswith("_")):
            yield path.stem


def on_files(files: Files, config: Any) -> None:
    """Add a page for every package."""
    for name in modules():
        files.append(File.generated(config, f"api/{name}.md", content=f"# cnnjax.{name}\n\n::: cnnjax.{name}\n"))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write links to files of the repository, which are not part of the site, as plain text."""
    return OUTSIDE.sub(r"\1", markdown)
