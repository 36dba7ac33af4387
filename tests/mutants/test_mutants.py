"""The faults are real: each is another program, of one line, with a name that stays; and every file has its tests."""

import ast
import textwrap

import pytest

from tests.mutants.__main__ import ROOT, Options, chosen
from tests.mutants.generate import mutants_of
from tests.mutants.targets import PACKAGES, nearest


def faults_of(tmp_path, text):
    (tmp_path / "code.py").write_text(textwrap.dedent(text))
    source = (tmp_path / "code.py").read_bytes()
    return {
        fault.applied(source).decode().strip() for fault in mutants_of(tmp_path, "code.py") if fault.applied(source)
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a <= b", {"a < b"}),
        ("a - 1", {"a + 1", "a - 2"}),
        ("not a", {"a"}),
        ("a if b else c", {"a if not (b) else c"}),
        ("f(a, b, key=True)", {"f(b, a, key=True)", "f(a, b)", "f(a, b, key=False)", "pass"}),
        ("relu(x)", {"x", "pass"}),
        ("y = x.mean(1)", {"y = x", "y = x.sum(1)", "y = x.mean(2)"}),
        ("y = jnp.maximum(x, y)", {"y = jnp.minimum(x, y)"}),
        ("raise ValueError(f(1))", set()),
        ('"""One of 2."""\nx: f(1) = y', set()),
    ],
)
def test_faults_are_small_and_messages_and_annotations_have_none(tmp_path, text, expected):
    assert faults_of(tmp_path, text) == expected


def test_a_fault_keeps_its_name_where_lines_are_added_before_it(tmp_path):
    (tmp_path / "code.py").write_text("x = a + b\n")
    (first,) = mutants_of(tmp_path, "code.py")
    (tmp_path / "code.py").write_text("import é\n\n\nx = a + b\n")
    (moved,) = mutants_of(tmp_path, "code.py")
    assert (first.id, first.line, moved.line) == (moved.id, 1, 4)
    assert moved.applied((tmp_path / "code.py").read_bytes()).decode().endswith("x = a - b\n")


def test_a_few_faults_are_the_first_of_many():
    many, few = (chosen(Options(sample=count, only="cnnjax/tasks/")) for count in (30, 8))
    assert (len(many), len(few)) == (30, 8)
    assert [fault.id for fault in many[:8]] == [fault.id for fault in few]
    for fault in few:
        ast.parse(fault.applied((ROOT / fault.path).read_bytes()))


def test_every_file_has_tests_that_are_there():
    for package in PACKAGES:
        for path in (ROOT / "cnnjax" / package).rglob("*.py"):
            for test in nearest(str(path.relative_to(ROOT))):
                assert (ROOT / test.split("::")[0]).exists(), (path, test)
