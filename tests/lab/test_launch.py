"""The command line as a person meets it: what it prints, how it exits, what it leaves behind."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import cnnjax
from cnnjax import runs, train
from cnnjax.lab import app, experiments, heap, markdown, published, report, terminal, workspace
from experiments import fcn_vs_cnn

ROOT = Path(__file__).parents[2]
SMALL = ["fcn-vs-cnn", "--data", "digits", "--epochs", "2", "--batch-size", "256"]


def call(capsys, *arguments):
    try:
        status = app.main(list(arguments))
    except SystemExit as stop:  # tyro ends the process itself
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def at(root, monkeypatch):
    """Let commands work in another folder than this checkout."""
    elsewhere = workspace.find()._replace(root=root)
    monkeypatch.setattr(workspace, "find", lambda: elsewhere)
    return elsewhere


def start(*arguments, cache, program=(str(ROOT / "launch.py"),), **streams):
    environment = {**os.environ, "CNNJAX_CACHE_DIR": str(cache), "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([sys.executable, *program, *arguments], text=True, env=environment, **streams)


# Writes down what would open something to the world, or execute what was read.
WATCHED = """
import sys, traceback
watched = {"socket.bind", "socket.connect", "webbrowser.open", "pickle.find_class"}
def note(event, arguments):
    if event in watched:
        with open(sys.argv[1], "a") as file:
            print(event, arguments, "".join(traceback.format_stack()), file=file)
sys.addaudithook(note)
from cnnjax.lab import app
sys.exit(app.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    out = tmp_path_factory.mktemp("finished") / "run"
    watched = ("-c", WATCHED, str(out.with_name("watched")))
    process = start(*SMALL, "--out", str(out), cache=cache, program=watched)
    printed, error = process.communicate()
    assert process.returncode == 0, error
    return out, printed


def test_without_arguments_every_experiment_is_listed(capsys):
    status, out, _ = call(capsys)
    assert status == 0
    for name in experiments.files():
        assert name in out


def test_the_version_and_the_help_are_commands(capsys):
    status, out, _ = call(capsys, "--version")
    assert status == 0
    assert re.fullmatch(rf"cnnjax {cnnjax.__version__}, jax {jax.__version__}, Python 3\.\d+\.\d+\n", out)
    assert call(capsys, "help") == call(capsys, "--help")
    program = subprocess.run([sys.executable, "-m", "cnnjax", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert program.stdout == out


def imported(*arguments):
    """The packages that a command imports."""
    command = [sys.executable, "-X", "importtime", str(ROOT / "launch.py"), *arguments]
    error = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    return set(re.findall(r"^import time:.*\| +([\w.]+)$", error, re.MULTILINE))


def test_a_command_imports_only_what_it_needs():
    slow = {"grain", "matplotlib", "orbax.checkpoint", "sklearn", "submitit", "tensorboardX"}
    names = imported()
    assert "cnnjax.lab.app" in names
    assert not names & {*slow, "flax", "jax", "numpy", "optax", "PIL", "tensorflow_datasets", "tyro"}
    names = imported("fcn-vs-cnn", "--help")
    assert "tyro" in names
    assert not names & slow


def test_help_lists_every_option_with_its_default(capsys):
    status, out, _ = call(capsys, "fcn-vs-cnn", "--help")
    assert status == 0
    for option in (
        "--data",
        "--epochs",
        "--batch-size",
        "--lr",
        "--seed",
        "--seeds",
        "--out",
        "--overwrite",
        "--parallel",
    ):
        assert option in out
    assert "(default: 20)" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fcn-vs-cn"], "unknown experiment or command 'fcn-vs-cn': did you mean fcn-vs-cnn?"),
        (["fcn-vs-cnn", "--epoch", "3"], "--epochs"),
        (["fcn-vs-cnn", "--epochs", "0"], "--epochs must be an integer of at least 1, got 0"),
        (["fcn-vs-cnn", "--epochs", "-1"], "--epochs must be an integer of at least 1, got -1"),
        (["fcn-vs-cnn", "--epochs", "many"], "--epochs: expected an integer of at least 1, got 'many'"),
        (["fcn-vs-cnn", "--epochs", "1.5"], "--epochs: expected an integer of at least 1, got '1.5'"),
        (["sweep", "fcn-vs-cnn", "--grid", "lr=a"], "--lr: expected a number larger than 0 and finite, got 'a'"),
        (
            ["fcn-vs-cnn", "--data", str(ROOT)],
            f"images of a folder, such as {ROOT}, are resized to one size: add --image-",
        ),
        (
            ["fcn-vs-cnn", "--data", "nowhere"],
            "'nowhere': none of the known names is near it. Sets without a download",
        ),
        (["--version", "now"], "--version takes no arguments, got now"),
        (["fcn-vs-cnn", "--lr", "0"], "--lr must be larger than 0 and finite, got 0"),
        (["fcn-vs-cnn", "--validation-split", "1"], "--validation-split must be between 0 and 1"),
        (["fcn-vs-cnn", "--seed", "-1"], "--seed must be from 0"),
        (["fcn-vs-cnn", "--data", "shape"], "unknown data set 'shape': did you mean"),
        (["fcn-vs-cnn", "--data", "digits", "--batch-size", "4000"], "larger than the 1006 images"),
        (["fcn-vs-cnn", "--data", "digits", "--batch-size", "20"], "cannot be split over 8 devices"),
        (["fcn-vs-cnn", "--data", "digits", "--accumulate", "10000"], "--accumulate 10000 is more than the 160 steps"),
        (["fcn-vs-cnn", "--data", "digits", "--freeze", "dense.0"], "lecture-cnn: unknown parameter or layer"),
        (["fcn-vs-cnn", "--data", "digits", "--augment", "random-crop:size=24"], "lecture-fcn: this LectureFCN takes"),
        (
            ["fcn-vs-cnn", "--data", "digits", "--parallel", "pmpa"],
            "invalid choice 'pmpa' for argument '--parallel'. Expected one of ('shard_map', 'pmap')",
        ),
        (["verify", "everything"], "verify: unrecognized arguments: everything; expected nothing, or --again and ids"),
        (["verify", "--again"], "verify: argument --again: expected at least one argument"),
        (["verify", "--again", "Z1"], "no claim 'Z1' in results/CLAIMS.md: expected an id as it stands there"),
        (["verify", "--again", "B1"], "B1 is computed anew by every verify: --again takes claims about stored runs ("),
        (["verify", "--again", "G7"], "G7 is about a benchmark: python launch.py bench augment measures it anew"),
        (["bench"], "bench takes what to time: augment"),
        (["bench", "op"], "unknown bench 'op': did you mean ops?"),
        (["bench", "ops", "--rows", "nothing*"], "no row matches --rows 'nothing*'"),
        (["publish"], "publish takes one run directory"),
        (["publish", "nowhere"], "nowhere is no finished run"),
    ],
)
def test_a_mistake_gets_one_message_and_leaves_nothing(capsys, tmp_path, arguments, said):
    out = tmp_path / "run"
    extra = ["--out", str(out)] if arguments[0] == "fcn-vs-cnn" else []
    status, printed, error = call(capsys, *arguments, *extra)
    assert status == 2
    assert said in re.sub(r"the \d+ known names", "the known names", re.sub(r"[│\s]+", " ", error))
    assert "Traceback" not in printed + error
    assert not out.exists()


def test_an_output_that_is_not_a_run_is_refused_and_kept(capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for extra in ([], ["--overwrite"]):
        status, _, error = call(capsys, *SMALL, "--out", str(tmp_path), *extra)
        assert status == 2
        assert "not a run's" in error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    status, _, error = call(capsys, *SMALL, "--out", str(tmp_path / "thesis.txt"))
    assert status == 2
    assert "is a file" in error


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a folder that nobody can write"
)
def test_an_unwritable_output_is_named(capsys):
    status, _, error = call(capsys, *SMALL, "--out", "/proc/self/run")
    assert status == 2
    assert "cannot write to /proc" in error


def test_peak_memory_is_the_programs_own_not_its_parents():
    held = bytearray(1 << 30)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    command = "from cnnjax.runs.hardware import peak_memory; print(peak_memory())"
    printed = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, check=True).stdout
    assert int(printed) < len(held)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
@pytest.mark.parametrize("given", ["", "glibc.malloc.perturb=0", "glibc.malloc.hugetlb=0:glibc.malloc.arena_max=4"])
def test_launch_starts_over_once_with_a_heap_that_keeps_its_memory(tmp_path, given):
    (tmp_path / "sitecustomize.py").write_text("import os; print(os.environ['GLIBC_TUNABLES'], flush=True)")
    environment = {**os.environ, "GLIBC_TUNABLES": given, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / "launch.py"), "--help"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    before, after = printed.partition("Start an experiment")[0].splitlines()
    ours = {"hugetlb": 1, "mmap_threshold": 2**30, "trim_threshold": 2**40}
    assert before == given
    assert after == ":".join([f"glibc.malloc.{name}={value}" for name, value in ours.items()] + [given] * bool(given))


LOADER = Path("/lib64/ld-linux-x86-64.so.2")


@pytest.mark.skipif(not LOADER.exists(), reason="glibc's, on x86-64")
def test_glibc_takes_every_setting_of_our_heap():
    """A name that it does not know, or a value out of range, it passes over without a word."""
    environment = {**os.environ, "GLIBC_TUNABLES": heap.TUNABLES}
    command = [str(LOADER), "--list-tunables"]
    listed = subprocess.run(command, env=environment, capture_output=True, text=True).stdout
    if "glibc.malloc.hugetlb" not in listed:
        pytest.skip("glibc before 2.35 has no huge pages")
    values = dict(re.findall(r"^(\S+): (0x[0-9a-f]+)", listed, re.MULTILINE))
    for name, value in (setting.split("=") for setting in heap.TUNABLES.split(":")):
        assert int(values[name], 16) == int(value), name


def test_a_finished_run_has_all_its_files(finished):
    out, printed = finished
    for name in ("config.json", "metrics.jsonl", "summary.json", "report.md", "figures/curves.png", "checkpoints"):
        assert (out / name).exists(), name
    summary = json.loads((out / "summary.json").read_text())
    assert summary["experiment"] == "fcn-vs-cnn"
    assert summary["config"]["epochs"] == 2
    assert re.fullmatch("[0-9a-f]{64}", summary["params_sha256"])
    assert 1e8 < summary["peak_memory_bytes"] < 3e9
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])
    assert set(row) == {"step", "epoch", "split", "name", "value"}
    assert "lecture-cnn" in printed
    for figure in re.findall(r"\((figures/.*?)\)", (out / "report.md").read_text()):
        assert (out / figure).exists()


def test_a_run_opens_no_port_and_no_browser_and_unpickles_nothing(finished):
    out, _ = finished
    watched = out.with_name("watched")
    assert not watched.exists(), watched.read_text()


def test_the_same_command_again_does_nothing(finished, capsys):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, printed, _ = call(capsys, *SMALL, "--out", str(out))
    assert status == 0
    assert "Finished before" in printed
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_another_config_in_the_same_place_is_an_error_that_names_the_difference(finished, capsys):
    out, _ = finished
    status, _, error = call(capsys, *SMALL, "--seed", "7", "--out", str(out))
    assert status == 2
    assert "seed: 0 there, 7 now" in error


def test_a_finished_run_is_published_without_checkpoints(finished, capsys, tmp_path, monkeypatch):
    out, _ = finished
    folder = at(tmp_path, monkeypatch).results
    few = {name: experiments.files()[name] for name in ("fcn-vs-cnn", "augmentations")}  # others compute for a minute
    monkeypatch.setattr(experiments, "files", lambda: few)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "options.md"
    page.write_text("<!-- options: written by launch.py report -->\nold\n<!-- end of options -->\n")
    assert call(capsys, "publish", str(out))[0] == 0
    assert (folder / "fcn-vs-cnn" / "summary.json").exists()
    assert not (folder / "fcn-vs-cnn" / "checkpoints").exists()
    assert call(capsys, "report")[0] == 0
    assert published.option_table() in page.read_text()
    assert (folder / "site" / "fcn-vs-cnn.html").exists()
    for figure in re.findall(r"\(([^)]*\.png)\)", (folder / "README.md").read_text()):
        assert (folder / figure).exists()
    status, printed, _ = call(capsys, "verify")  # digits are not CIFAR-10: the measured claims cannot hold
    assert status == 1
    assert re.search(r"\d+ hold, 0 fail, 0 are errata, [45] not run", printed)
    assert f"all of them are in {folder / 'CLAIMS.md'}" in printed
    assert not re.search(r"\bholds\b", printed)  # only what does not hold is listed
    claims = (folder / "CLAIMS.md").read_text()
    for id, verdict in {"A1": "holds", "A2": "holds", "A3": "**not run**", "A5": "**not run**"}.items():
        assert re.search(rf"^\| {id} \|.*\| {re.escape(verdict)}", claims, re.MULTILINE), id


@pytest.mark.parametrize("same", [False, True])
def test_a_run_of_ones_own_does_not_replace_what_confirms_a_lecture(finished, same, capsys, tmp_path, monkeypatch):
    folder = at(tmp_path, monkeypatch).results / "fcn-vs-cnn"
    shutil.copytree(ROOT / "results" / "fcn-vs-cnn", folder)
    before = json.loads((folder / "summary.json").read_text())
    if same:  # then it counts that a claim no longer holds
        own = json.loads((finished[0] / "summary.json").read_text())["config"]
        (folder / "summary.json").write_text(json.dumps(before | {"config": own}))
    monkeypatch.setattr(fcn_vs_cnn, "_distance_from_numpy", lambda name: 0.0)
    status, _, error = call(capsys, "publish", str(finished[0]))
    published_data = json.loads((folder / "summary.json").read_text())["data"]["name"]
    assert (status, published_data) == ((0, "digits") if same else (2, "cifar10"))
    if not same:
        assert "has other options than the published fcn-vs-cnn (data digits, " in error
        assert "does not confirm what that does of the lectures (A3, A4, A5, A6)" in error
        assert str(finished[0] / "report.md") in error


@pytest.mark.parametrize("experiment", ["../thesis", "{parent}/thesis", "", None, ["a"]])
def test_a_run_that_names_another_directory_is_not_published_over_it(experiment, capsys, tmp_path, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "results").mkdir()
    at(tmp_path, monkeypatch)
    name = experiment.format(parent=tmp_path) if isinstance(experiment, str) else experiment
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"experiment": name}))
    status, _, error = call(capsys, "publish", str(tmp_path / "run"))
    assert status == 2
    assert f"unknown experiment in {tmp_path / 'run' / 'summary.json'} " in error
    assert {path.name for path in tmp_path.iterdir()} == {"thesis", "run", "results"}


def test_what_is_published_is_not_published_over_itself(capsys, tmp_path, monkeypatch):
    folder = at(tmp_path, monkeypatch).results / "fcn-vs-cnn"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text('{"experiment": "fcn-vs-cnn"}')
    status, _, error = call(capsys, "publish", str(folder))
    assert status == 2
    assert "is published already" in error
    assert (folder / "summary.json").exists()


def test_bench_times_the_rows_that_match(capsys):
    status, printed, _ = call(capsys, "bench", "ops", "--rows", "nearest*", "--seconds", "0")
    assert status == 0
    assert "nearest x2" in printed
    assert "GFLOP/s" in printed


@pytest.mark.processes
@pytest.mark.parametrize("lines", [0, 1, 9])
def test_a_killed_run_ends_with_the_parameters_of_an_undisturbed_one(lines, finished, tmp_path, cache):
    """`kill -9` once `metrics.jsonl` has so many lines, then the same command."""
    out = tmp_path / "run"
    process = start(*SMALL, "--out", str(out), cache=cache)
    _wait(process, lambda: out.exists() and _lines(out) >= lines)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "summary.json").exists()
    again = start(*SMALL, "--out", str(out), cache=cache)
    _, error = again.communicate()
    assert again.returncode == 0, error
    ours, theirs = (runs.read_json(folder / "summary.json") for folder in (out, finished[0]))
    assert ours["params_sha256"] == theirs["params_sha256"]
    assert (
        ours["models"]["lecture-cnn"]["curves"]["train/loss"] == theirs["models"]["lecture-cnn"]["curves"]["train/loss"]
    )


@pytest.mark.processes
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_says_how_to_go_on_and_has_its_status(signum, status, tmp_path, cache):
    out = tmp_path / "run"
    process = start(*SMALL, "--epochs", "50", "--overwrite", "--out", str(out), cache=cache)
    _wait(process, lambda: _lines(out) >= 1)
    process.send_signal(signum)
    _, error = process.communicate()
    assert process.returncode == status
    assert "Resume with: python launch.py fcn-vs-cnn --data digits" in error
    assert "--overwrite" not in error  # which would delete what was just saved
    assert "Traceback" not in error
    assert any(path.name.isdigit() for path in (out / "checkpoints" / "lecture-fcn" / "seed0").iterdir())


def _wait(process, condition):
    """Return when the condition holds or the process has ended."""
    while process.poll() is None and not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)


def _lines(out):
    return len((out / "metrics.jsonl").read_text().splitlines()) if (out / "metrics.jsonl").exists() else 0


@pytest.mark.processes
def test_a_run_whose_loss_is_not_finite_fails_and_says_where(tmp_path, cache):
    process = start(*SMALL, "--lr", "1e30", "--out", str(tmp_path / "run"), cache=cache)
    _, error = process.communicate()
    assert process.returncode == 1
    assert re.search(r"error: lecture-fcn/seed0: step \d+ ends in a loss .* not finite; .*--on-nan rollback", error)
    assert "Traceback" not in error


@pytest.mark.processes
def test_a_directory_in_use_is_refused(tmp_path, cache, capsys):
    run = tmp_path / "run"
    first = start(*SMALL, "--epochs", "50", "--out", str(run), cache=cache)
    try:
        _wait(first, lambda: _lines(run) >= 1)
        status, _, error = call(capsys, *SMALL, "--epochs", "50", "--out", str(run))
        assert status == 2
        assert f"in use by process {first.pid}" in error
    finally:
        first.kill()
        first.communicate()


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_under_standard_output_and_error_costs_nothing_but_the_words(finished, tmp_path, cache):
    out = tmp_path / "run"
    with open("/dev/full", "w") as full:
        process = start(*SMALL, "--out", str(out), cache=cache, stdout=full, stderr=full)
        assert process.wait() == 1  # the table could not be printed
    ours, theirs = (runs.read_json(folder / "summary.json") for folder in (out, finished[0]))
    assert ours["params_sha256"] == theirs["params_sha256"]


@pytest.mark.processes
@pytest.mark.parametrize("name", ["figures/curves.png", "report.md", "summary.json"])
def test_what_cannot_be_written_at_the_end_is_named_and_written_by_the_same_command(
    name, finished, tmp_path, monkeypatch, capsys
):
    """A directory in its place, for a disk that takes all but this file."""
    out = tmp_path / "run"
    shutil.copytree(finished[0], out)
    (out / "summary.json").unlink()
    (out / name).unlink(missing_ok=True)
    (out / name).mkdir()
    status, _, error = call(capsys, *SMALL, "--out", str(out))
    if name == "summary.json":
        assert status == 2
        assert "summary.json cannot be read" in error
    else:
        assert status == 1
        assert f"error: {out / name}: Is a directory. Training is saved up to" in error
    assert "Traceback" not in error
    (out / name).rmdir()
    assert call(capsys, *SMALL, "--out", str(out))[0] == 0
    ours, theirs = (runs.read_json(folder / "summary.json") for folder in (out, finished[0]))
    assert ours["params_sha256"] == theirs["params_sha256"]


@pytest.mark.processes
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("stage", ["load", "fit_seeds", "_draw"])
def test_a_signal_at_any_stage_ends_the_run_with_its_status(stage, signum, status, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train, "fit_seeds", lambda *args, **options: [])
    part = train if stage == "fit_seeds" else fcn_vs_cnn
    monkeypatch.setattr(part, stage, lambda *args, **options: signal.raise_signal(signum))
    ended, _, error = call(capsys, *SMALL, "--out", str(tmp_path / "run"))
    assert ended == status
    assert "Resume with: python launch.py fcn-vs-cnn" in error
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


ENDLESS = """
import jax
from cnnjax import runs
from cnnjax.runs.signals import deferred_signals
with runs.raised_signals(), deferred_signals():
    print("computing", flush=True)
    jax.jit(lambda: jax.lax.while_loop(lambda x: x >= 0, lambda x: (x + 1) % 2, 0))().block_until_ready()
"""


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once_whatever_the_process_does(signum, status, cache):
    process = start(program=("-c", ENDLESS), cache=cache)
    assert process.stdout.readline() == "computing\n"
    while process.poll() is None:
        process.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    _, error = process.communicate()
    assert process.returncode == status
    assert "stopping, and saving what is done; a second signal stops at once" in error
    assert "stopped at once; the same command resumes from the last saved state" in error


ENDING = """
import atexit, runpy, signal, sys
for signum in signal.SIGTERM, signal.SIGINT:
    atexit.register(signal.raise_signal, signum)
sys.argv = ["launch.py", "nothing"]
runpy.run_path("launch.py", run_name="__main__")
"""


def test_signals_while_python_ends_leave_the_exit_status_as_it_is(cache):
    process = start(program=("-c", ENDING), cache=cache, cwd=ROOT)
    _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.startswith("error: unknown experiment or command 'nothing'")
    assert "Traceback" not in error


@pytest.mark.processes
def test_a_directory_taken_away_under_a_run_ends_it_with_one_message(tmp_path, cache):
    out = tmp_path / "run"
    process = start(*SMALL, "--epochs", "50", "--out", str(out), cache=cache)
    _wait(process, lambda: _lines(out) >= 1)
    out.rename(tmp_path / "elsewhere")
    _, error = process.communicate()
    assert process.returncode == 1
    assert f"error: {out} has vanished, or can no longer be read" in error
    assert "Traceback" not in error


def test_docs_have_the_tables_of_the_code_and_of_the_results():
    assert published.option_table() in (ROOT / "docs" / "options.md").read_text()
    networks = (ROOT / "results" / "bench" / "networks.md").read_text().strip()
    assert networks in (ROOT / "docs" / "benchmarks.md").read_text()


def test_words_of_a_wide_table_stay_whole_at_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    head = ["split", "images", "mean IoU", "pixel accuracy", "mean accuracy", "weighted IoU", "boundary F1", "loss"]
    rows = [["validation", "6", "76.0%", "91.4%", "94.8%", "85.6%", "", "0.733"]]
    terminal.print_markdown("So:\n\n" + markdown.table(head, rows))
    shown = capsys.readouterr().out
    assert {*rows[0], *" ".join(head).split(), "So:"} - {""} <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_a_report_repeats_the_options_that_are_not_the_defaults():
    config = {"seed": 0, "weight_decay": 0.0, "lr": None, "augment": "mirror zoom", "skip_bad": True, "ema": None}
    assert report.command("fcn-vs-cnn", fcn_vs_cnn.Config, config | {"gradient_norm": False, "data": "shapes"}) == (
        "python launch.py fcn-vs-cnn --weight-decay 0.0 --augment 'mirror zoom' --skip-bad --data shapes"
    )
