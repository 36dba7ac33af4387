"""The pages of the site that are not files in docs/: one for each package of cnnjax, made from its docstrings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)")
IMAGE_OUTSIDE = re.compile(r"(!\[[^\]]*\]\()\.\./([^)]+)\)")


def modules() -> Iterator[str]:
    """Yield the packages and modules directly inside cnnjax that a person would import."""
    for path in sorted((ROOT / "cnnjax").iterdir()):
        if (path / "__init__.py").exists() or (path.suffix == ".py" and not path.name.startswith("_")):
            yield path.stem


def on_files(files: Files, config: Any) -> None:
    """Add a page for every package, and the images of the repository that pages show."""
    for name in modules():
        files.append(File.generated(config, f"api/{name}.md", content=f"# cnnjax.{name}\n\n::: cnnjax.{name}\n"))
    pages = [path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))]
    for image in sorted({image for page in pages for _, image in IMAGE_OUTSIDE.findall(page)}):
        files.append(File.generated(config, image, abs_src_path=str(ROOT / image)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point images into the site, and write links to files of the repository that are not in it as plain text."""
    return LINK_OUTSIDE.sub(r"\1", IMAGE_OUTSIDE.sub(r"\1\2)", markdown))
