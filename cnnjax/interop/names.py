"""Where a network's names here differ from those of the library that its weights come from: patterns to replace."""

RENAMES: dict[str, tuple[tuple[str, str], ...]] = {}
