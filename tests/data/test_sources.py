"""Options of a source reach what loads it."""

import dataclasses

from cnnjax.data import Source, sources


def test_every_option_of_a_source_reaches_what_loads_it(monkeypatch):
    calls = []
    monkeypatch.setattr(sources, "load", lambda name, **options: calls.append({"data": name} | options))
    options = {"image_size": 24, "stream": "always", "workers": 3, "skip_bad": True, "deep": "type"}
    source = Source("photographs", validation_split=0.3, **options)
    source.dataset()
    assert calls == [dataclasses.asdict(source) | {"ignore_index": None}]
    assert all(getattr(source, field.name) != field.default for field in dataclasses.fields(Source))
