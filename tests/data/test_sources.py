"""Options of a source reach what loads it."""

import dataclasses

from cnnjax.data import Source, sources
from cnnjax.data.folders import FolderSource


def test_every_option_of_a_source_reaches_what_loads_it(monkeypatch):
    calls = []
    monkeypatch.setattr(sources, "load", lambda name, **options: calls.append({"data": name} | options))
    options = {"image_size": 24, "stream": "always", "workers": 3, "skip_bad": True, "deep": "type"}
    source = Source("photographs", validation_split=0.3, **options)
    source.dataset()
    assert calls == [dataclasses.asdict(source) | {"ignore_index": None}]
    assert all(getattr(source, field.name) != field.default for field in dataclasses.fields(Source))


def test_a_renamed_or_a_changed_file_makes_other_data(tmp_path):
    def version(name):
        return sources._fingerprint({"train": FolderSource((str(tmp_path / name),), (0,))})

    (tmp_path / "a.png").write_bytes(b"one")
    first = version("a.png")
    (tmp_path / "a.png").rename(tmp_path / "b.png")  # which keeps its size and its time
    renamed = version("b.png")
    (tmp_path / "b.png").write_bytes(b"more")
    assert len({first, renamed, version("b.png")}) == 3
