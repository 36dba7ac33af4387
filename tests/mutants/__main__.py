"""Put small faults into copies of the package, one at a time, and count how many the nearest tests catch.

    python -m tests.mutants                                 # 180 faults, hours on a core; goes on where it stopped
    python -m tests.mutants --sample 20 --no-write          # the short form: the first 20 of the same faults
    python -m tests.mutants --only cnnjax/ops/pool.py       # those of one file

The checkout is never changed. A fault is caught where a test fails that passes without it, or where the tests do not
come to an end. What was tried is kept in results/reliability/mutants.json by the fault, its file and its tests, and is
not tried again until one of them changes.
"""

import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from tests.mutants.generate import Mutant, mutants_of
from tests.mutants.targets import EXPLAINED, PACKAGES, nearest, same

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "reliability"
COPIED = ("cnnjax", "experiments", "tests")  # the rest is read where it is


@dataclass(frozen=True)
class Options:
    """What to try."""

    sample: Annotated[int, tyro.conf.arg(help="How many faults, in turn of every package.")] = 180
    only: Annotated[str, tyro.conf.arg(help="Only faults of files whose path starts so.")] = "cnnjax/"
    seed: Annotated[int, tyro.conf.arg(help="Decides which faults are chosen.")] = 0
    jobs: Annotated[int, tyro.conf.arg(help="Faults tried at the same time.")] = 1
    limit: Annotated[float, tyro.conf.arg(help="Seconds after which the tests of a fault count as hanging.")] = 900
    write: Annotated[bool, tyro.conf.arg(help="Write results/reliability.")] = True
    least: Annotated[float, tyro.conf.arg(help="Share that has to be caught, else the exit status is 1.")] = 0.95


def chosen(options: Options) -> list[Mutant]:
    """Return the faults to try, the same ones every time: of each package in turn, at most one a line."""

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{options.seed} {mutant.id}".encode()).hexdigest()

    ranked: list[tuple[int, str, Mutant]] = []
    for package in PACKAGES:
        paths = (str(path.relative_to(ROOT)) for path in (ROOT / "cnnjax" / package).rglob("*.py"))
        faults = [fault for path in paths if path.startswith(options.only) for fault in mutants_of(ROOT, path)]
        faults = sorted((fault for fault in faults if not same(fault)), key=rank)
        lines = {(fault.path, fault.line): fault for fault in reversed(faults)}  # the first of each line
        kept = [fault for fault in faults if lines[fault.path, fault.line] is fault]
        kept = [fault for fault in kept[: options.sample] if fault.applied((ROOT / fault.path).read_bytes())]
        ranked += [(number, package, fault) for number, fault in enumerate(kept)]
    return [fault for *_, fault in sorted(ranked, key=lambda row: row[:2])][: options.sample]


# ---------------------------------------------------------------- one fault


class Copy:
    """A copy of the checkout in which faults are put."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.passing: set[str] = set()  # tests that fail with some fault, and pass without
        for path in ROOT.iterdir():
            if path.name in COPIED:
                shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / path.name).symlink_to(path)

    def run(self, tests: list[str], seconds: float) -> tuple[str, str]:
        """Return how tests end here, "survived", "caught" or "not run", and the first that fails."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no"]
        command += [f"--basetemp={self.folder}-tmp", *tests]
        programs = Path(tempfile.gettempdir()) / "cnnjax-mutants-xla"  # compiled once for all faults
        environment = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True, **pipes) as process:
            try:
                printed = process.communicate(timeout=seconds)[0]
            except subprocess.TimeoutExpired:
                return "caught", "takes too long"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        failed = [line.split(" - ")[0] for line in printed.splitlines() if line.startswith(("FAILED", "ERROR"))]
        outcome = {0: "survived", 1: "caught", 2: "caught", 4: "caught"}.get(process.returncode, "not run")
        if process.returncode < 0:  # a fault may take the interpreter down
            outcome = "caught"
        if process.returncode == 4 and not failed:  # a file of tests that is not there
            outcome = "not run"
        return outcome, failed[0] if failed else printed[-200:] if outcome != "survived" else ""

    def try_fault(self, fault: Mutant, seconds: float) -> tuple[str, str]:
        """As `run`, with the fault."""
        path = self.folder / fault.path
        source = path.read_bytes()
        path.write_bytes(fault.applied(source) or source)
        try:
            outcome, by = self.run(nearest(fault.path), seconds)
        finally:
            path.write_bytes(source)
        status, _, test = by.partition(" ")
        if outcome == "caught" and status in ("FAILED", "ERROR") and test not in self.passing:
            if self.run([test], seconds)[0] != "survived":
                return "not run", f"without the fault, too: {by}"
            self.passing.add(test)
        return outcome, by


def fingerprint(root: Path, *paths: str) -> str:
    """Return a short hash of files below `root`, of tests without what stands after "::"."""
    files = [path for name in paths for path in _files(root / name.split("::")[0])]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def known(record: dict[str, Any] | None, fault: Mutant) -> bool:
    """Return whether a fault need not be tried again: a caught one while its file stays, others with their tests."""
    if record is None or record["outcome"] == "not run" or record["source"] != fingerprint(ROOT, fault.path):
        return False
    return record["outcome"] == "caught" or record["tests"] == fingerprint(ROOT, *nearest(fault.path))


# ---------------------------------------------------------------- all faults


def main() -> int:
    """Try the faults, print and write what became of them; exit status 1 if too many survived."""
    options = tyro.cli(Options, prog="python -m tests.mutants", description=__doc__)
    file, faults = RESULTS / "mutants.json", chosen(options)
    stored = json.loads(file.read_text()) if file.exists() else {}
    records: dict[str, Any] = {fault.id: stored[fault.id] for fault in faults if known(stored.get(fault.id), fault)}
    left = [fault for fault in faults if fault.id not in records]
    print(f"{len(faults)} faults, {len(records)} of which have been tried", flush=True)
    with tempfile.TemporaryDirectory(prefix="cnnjax-mutants-") as temporary:
        copies: queue.Queue[Copy] = queue.Queue()
        for number in range(options.jobs):
            copies.put(Copy(_made(Path(temporary) / str(number))))

        def tried(fault: Mutant) -> None:
            copy = copies.get()
            began = time.monotonic()
            outcome, by = copy.try_fault(fault, options.limit)
            records[fault.id] = {
                **{name: getattr(fault, name) for name in ("path", "line", "kind", "before", "replacement")},
                "outcome": outcome,
                "by": by,
                "seconds": round(time.monotonic() - began, 1),
                "source": fingerprint(copy.folder, fault.path),
                "tests": fingerprint(copy.folder, *nearest(fault.path)),
            }
            copies.put(copy)
            print(f"{len(records)}/{len(faults)} {outcome}: {described(fault)}; {by}", flush=True)
            if options.write:
                file.write_text(json.dumps(stored | records, indent=1, sort_keys=True) + "\n")
                if options.only == Options.only and options.sample >= Options.sample:
                    (RESULTS / "mutants.md").write_text(page(faults, records))

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(tried, left))
    print(page(faults, records))
    counts = Counter("explained" if id in EXPLAINED else record["outcome"] for id, record in records.items())
    return int(counts["caught"] < options.least * (counts["caught"] + counts["survived"]) or bool(counts["not run"]))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def described(fault: Mutant) -> str:
    """Return a fault in a line."""
    source = (ROOT / fault.path).read_bytes()
    old = " ".join(source[fault.start : fault.end].decode().split())
    new = " ".join(fault.replacement.split())
    return f"{fault.path}:{fault.line}: {fault.kind}, `{old}` -> `{new}` in `{fault.before}`"


def page(faults: list[Mutant], records: dict[str, Any]) -> str:
    """Return how many faults were caught, by package, and those that were not, as Markdown."""
    tried, rows = [fault for fault in faults if fault.id in records], []
    for package in (*PACKAGES, ""):
        ours = [fault for fault in faults if fault.path.startswith(f"cnnjax/{package}")]
        counts = Counter(records[fault.id]["outcome"] for fault in ours if fault.id in records)
        number = counts["caught"] + counts["survived"]
        rows.append(f"| {package or 'all'} | {len(ours)} | {number} | {counts['caught']} | {counts['survived']} |")
    survivors = [
        f"- {described(fault)}. {EXPLAINED.get(fault.id, 'A hole.')}"
        for fault in tried
        if records[fault.id]["outcome"] == "survived"
    ]
    return "\n".join(
        [
            "# How many small faults the tests catch\n",
            "Written by `python -m tests.mutants`: an operator is exchanged, a number is off by one, a condition is",
            "negated, an argument is dropped or takes another's place, a call is left out. The faults are put into a",
            "copy of the package one at a time, chosen at random but the same ones every time; then the tests nearest",
            "to the file run, those of `tests/mutants/targets.py`, which also names the kinds of faults that are left",
            "out because no test could see them.\n",
            "| package | chosen | tried | caught | survived |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "\nThose that survived:\n" if survivors else "",
            *survivors,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
