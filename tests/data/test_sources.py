"""Options of a source reach what loads it."""

import dataclasses

from cnnjax.data import Source, sources


def test_every_option_of_a_source_reaches_what_loads_it(monkeypatch):
    calls = []
    monkeypatch.setattr(sources, "load", lambda name, **options: calls.append({"data": name} | options))
    source = Source("photographs", image_size=24, stream="always", workers=3, skip_bad=True, deep="type")
    source.dataset()
    assert calls == [dataclasses.asdict(source)]
    assert all(
        value != field.default for value, field in zip(calls[0].values(), dataclasses.fields(Source), strict=True)
    )
