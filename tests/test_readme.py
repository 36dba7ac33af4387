"""README's Python runs as it stands, its numbers are those of the results, and its commands those that CI runs."""

import json
import math
import re
import shlex
import statistics
from functools import cache
from pathlib import Path

import pytest

from cnnjax import models
from cnnjax.lab import ledger
from cnnjax.lab.claims import Verdict
from cnnjax.models.registry import lookup

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.processes
def test_the_package_is_used_as_shown(tmp_path, monkeypatch, capsys):
    (block,) = BLOCKS
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["slope"].shape == (3, 3, 8, 4)
    assert float(capsys.readouterr().out.split()[-1]) > 0.95
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- numbers


@cache
def result(name):
    return json.loads((ROOT / "results" / f"{name}.json").read_text())


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def zoo(segmentation=False):
    """Rows of the networks for segmentation, or of all others."""
    names = models.list_models(task="segmentation")
    return [row for row in result("bench/models")["rows"] if (row["name"] in names) == segmentation]


def steps(own):
    """Training steps over PyTorch's by network, at 96x96 or at the networks' own sizes."""
    times = {row["name"]: row["milliseconds"].get("training", {}) for row in zoo() if row["own"] == own}
    return {name: row["cnnjax"] / row["torch"] for name, row in times.items() if "torch" in row}


def over_plain(pattern):
    """Training steps of plain Flax over cnnjax's, of the networks whose name matches, at 96x96: the least, the most."""
    rows = [row for row in result("bench/models")["rows"] if not row["own"] and re.fullmatch(pattern, row["name"])]
    ratios = [row["milliseconds"]["training"]["plain Flax"] / row["milliseconds"]["training"]["cnnjax"] for row in rows]
    return min(ratios), max(ratios)


def op(name, over="plain", under="ours"):
    both = next(row["both"] for row in result("bench/ops")["rows"] if row["name"] == name)
    return both[over] / both[under]


def spread(names):
    ratios = [op(name) for name in names]
    return f"{min(ratios):.0f} to {max(ratios):.0f}"


def step(network, contender, peer="torch", what="milliseconds"):
    row = next(row for row in result("bench/train")["rows"] if row["name"] == network)
    return row[what][contender] / row[what][peer]


def whole(peer, fastest=False):
    """The whole of fcn-vs-cnn over a peer's, by the clock or by the fastest epochs."""
    rows = {row["name"]: row for row in result("bench/run")["rows"]}
    seconds = {
        name: sum(one["fastest_epoch_seconds"] for one in row["networks"].values()) if fastest else row["seconds"]
        for name, row in rows.items()
    }
    return seconds["cnnjax"] / seconds[peer]


def overhead(which):
    found = result("bench/run")["overhead"][which]
    return found["overhead_percent"], min(found["overhead_percents"]), max(found["overhead_percents"])


def scaled(network, devices, processes=False):
    times = next(row["milliseconds"] for row in result("bench/scaling")["rows"] if row["name"] == network)
    one = f"{devices} devices, shard_map" if processes else "1 device, shard_map"
    return times[f"{devices} devices of 2 processes" if processes else f"{devices} devices, shard_map"] / times[one]


def network(name):
    found = result("fcn-vs-cnn/summary")["models"][name]
    accuracies = found["test_accuracy_by_seed"]
    return found | {
        "mean": f"{100 * found['test_accuracy']:.1f} %",
        "range": f"{100 * min(accuracies):.1f} to {100 * max(accuracies):.1f}",
        "ends": " | ".join(
            f"{100 * found['curves'][f'{split}/accuracy'][-1]:.1f} %" for split in ("train", "validation")
        ),
    }


def iou(name):
    return f"{100 * result('segmentation/summary')['networks'][name]['mean_iou']:.0f} %"


def verdicts():
    return [Verdict(row[5]) for of_one in result("claims").values() for row in of_one["claims"]]


def ids():
    return {row[0] for of_one in result("claims").values() for row in of_one["claims"]}


def means(key):
    return result("bench/ops")["means"][key]


def most(values, key):
    return max((row[key]["cnnjax"] if key == "compilation_seconds" else row[key], row["name"]) for row in values)


def resumed():
    seconds = result("bench/resume")["resume_seconds"]
    return f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"


def memory(which):
    return max((row["memory"] or {}).get(which) or 0 for row in result("bench/ops")["rows"])


def compiled(name, own):
    rows = result("bench/models")["rows"]
    return next(row["compilation_seconds"]["cnnjax"] for row in rows if (row["name"], row["own"]) == (name, own))


def created(name):
    return sorted(row["creation_seconds"] for row in result("bench/models")["rows"] if row["name"] == name)


def together():
    (row,) = (row for row in result("bench/augment")["rows"] if row["name"] == "the lecture's together")
    return row["percent_of_step"]


def vmapped(name):
    (times,) = (row["milliseconds"] for row in result("bench/train")["seeds"] if row["name"] == name)
    return times["one after another"] / times["in one program"]


def networks():
    """How many the package has; tests and a person's own files register others."""
    names = models.list_models()
    return sum(Path(lookup(name).place).is_relative_to(Path(models.__file__).parent) for name in names)


def in_readme():
    fcn, cnn, size96, own = network("lecture-fcn"), network("lecture-cnn"), steps(own=False), steps(own=True)
    entries, checked = len(ledger.read()), verdicts()
    return [
        f"layers and {networks()} networks as",
        f"{len(ids())} of the {entries}\nstatements that five CNN lectures make",
        f"in plain JAX takes {means('worst plain / torch'):.0f} times as long",
        f"[{len(checked)} checked claims]",
        f"| `lecture-fcn` | {fcn['params']:,} | {fcn['mean']} | 49.6 % |",
        f"| `lecture-cnn` | {cnn['params']:,} | {cnn['mean']} | 66.5 % |",
        f"reach a mean IoU of {iou('FCN-8s')}, {iou('DeepLab')}, {iou('DilatedNet')} and {iou('encoder-decoder')}.",
        f"the same DeepLab has {iou('DeepLab, not dilated')}, for",
        f"geometric mean | {means('plain / torch'):.1f} | {means('ours / torch'):.2f} |",
        f"in 32 groups | {means('worst plain / torch'):.0f} | {means('worst ours / torch'):.1f} |",
        f"lecture's CNN | {step('lecture-cnn', 'plain Flax'):.1f} | {step('lecture-cnn', 'cnnjax'):.2f} |",
        f"lecture's FCN | {step('lecture-fcn', 'plain Flax'):.2f} | {step('lecture-fcn', 'cnnjax'):.2f} |",
        f"{len(size96)} networks on 96x96 images, geometric mean | | {geometric_mean(size96.values()):.2f} |",
        f"own sizes, {len(own)} networks | | {geometric_mean(own.values()):.2f} |",
    ]


def in_lectures():
    fcn, cnn, entries, checked = network("lecture-fcn"), network("lecture-cnn"), len(ledger.read()), verdicts()
    return [
        f"writes [{len(checked)} rows](../results/CLAIMS.md): {checked.count(Verdict.HOLDS)} hold, "
        f"{checked.count(Verdict.FAILS)} fail and {checked.count(Verdict.ERRATUM)} are",
        f"Of the {entries} statements in the [ledger",
        f"(../experiments/ledger.csv) {len(ids())} have a row, and {entries - len(ids())} are open",
        f"in {result('fcn-vs-cnn/summary')['seconds'] / 60:.0f} minutes on two",
        f"| `lecture-fcn` | {fcn['params']:,} | {fcn['mean']} ({fcn['range']}) | 49.6 % | {fcn['ends']} | "
        f"{fcn['step_ms']:.0f} ms |",
        f"| `lecture-cnn` | {cnn['params']:,} | {cnn['mean']} ({cnn['range']}) | 66.5 % | {cnn['ends']} | "
        f"{cnn['step_ms']:.0f} ms |",
    ]


def names(start):
    return [row["name"] for row in result("bench/ops")["rows"] if row["name"].startswith(start)]


def of_primitives_and_steps():
    return [
        f"mean of the rows | {means('plain / torch'):.1f} | {means('ours / torch'):.2f} |",
        f"in 32 groups | {means('worst plain / torch'):.0f} | {means('worst ours / torch'):.1f} |",
        f"depthwise, max pooling | 1 | {spread(names('conv depthwise'))}, {spread(names('max pool'))} |",
        "32, 8 and 2 groups | 1 | " + ", ".join(f"{op(f'conv 3x3 in {n} groups'):.0f}" for n in (32, 8, 2)) + " |",
        f"plain JAX / cnnjax: transposed | 1 | {spread(names('transposed'))} |",
        *(
            " | ".join(
                ", ".join(f"{step(f'lecture-{name}', who, peer):.{digits}f}" for peer in ("torch", "torch, fused Adam"))
                for who, digits in (("plain Flax", plain), ("cnnjax", 2))
            )
            for name, plain in (("cnn", 1), ("fcn", 2))
        ),
        "first call / plain Flax's | 1 | "
        + ", ".join(
            f"{step(name, 'cnnjax', 'plain Flax', 'compilation_seconds'):.2f}"
            for name in ("lecture-cnn", "lecture-fcn")
        ),
        f"inputs and outputs | {memory('plain'):.1f} | {memory('ours'):.1f} |",
        f"takes {op('conv depthwise 3x3 s2', 'ours', 'torch'):.1f} times PyTorch's time, and a single image "
        f"{op('conv 3x3 batch 1', 'ours', 'torch'):.1f}",
    ]


def of_training():
    stream, saved = result("bench/stream"), result("bench/resume")
    loop, epoch = overhead("loop"), overhead("whole_epoch")
    return [
        f"| {whole('Keras on torch'):.2f} in one turn, {whole('Keras on torch', True):.2f} by each one's fastest",
        f"| {whole('torch'):.2f} in that turn, in which torch's epochs varied twofold; {whole('torch', True):.2f}",
        f"| {loop[0]:.1f} % ({loop[1]:.1f} to {loop[2]:.1f}) | 3 % |",
        f"| {epoch[0]:.0f} % ({epoch[1]:.0f} to {epoch[2]:.0f}) | |",
        f"augmentations / a lecture CNN's step | {together():.1f} % |",
        f"(`bench resume`) | {saved['save_alone_percent']:.1f} % |",
        f"programs in the cache | {resumed()} |",
        f"of 64x64 | {stream['waiting_percent']['stream']:.2f} % |",
        f"from memory | {stream['step_slower_percent']:.1f} % slower |",
        f"over these images | {stream['memory_growth_percent']:.1f} % |",
        "(`bench scaling`) | " + ", ".join(f"{scaled('lecture-cnn', n):.2f}" for n in (2, 4, 8)) + " |",
        "Adam steps | " + ", ".join(f"{scaled('lecture-fcn', n):.1f}" for n in (2, 4, 8)) + " |",
        "; ".join(
            f"{name.upper()} " + ", ".join(f"{scaled(f'lecture-{name}', n, processes=True):.2f}" for n in (2, 4))
            for name in ("cnn", "fcn")
        ),
        f"throughput | {vmapped('lecture-fcn'):.2f}, {vmapped('lecture-cnn'):.2f} |",
    ]


def of_the_zoo():
    rows, size96, own = zoo(), steps(own=False), steps(own=True)
    slowest, slowest_own = (max(of, key=of.get) for of in (size96, own))
    resnext, effnet, mobile = over_plain("resnext.*"), over_plain("efficientnet_b.*"), over_plain("mobilenet.*")
    shuffle, shuffle_v2 = over_plain("shufflenet.*"), [size96[name] for name in size96 if "shufflenet_v2" in name]
    times = sorted(((compiled(row["name"], row["own"]), row["name"], row["own"]) for row in rows), reverse=True)
    created_longest, traced = most(rows, "creation_seconds"), most(rows, "tracing_seconds")
    return [
        f"The {len({row['name'] for row in rows})} networks at 96x96",
        f"largest parity error is {max(row['parity_error'] or 0 for row in rows):.0e}".replace("e-0", "e-"),
        f"of the {len(size96)} networks that it has | {geometric_mean(size96.values()):.2f} |",
        f"the worst: {slowest} | {size96[slowest]:.2f} |",
        f"of {len(own)} networks; the worst: {slowest_own} | {geometric_mean(own.values()):.2f}, "
        f"{own[slowest_own]:.2f} |",
        f"| {resnext[0]:.0f} and {resnext[1]:.0f}, {effnet[0]:.0f} to {effnet[1]:.0f} (v2_s, half of it dense: "
        f"{over_plain('efficientnet_v2_s')[0]:.1f})",
        f"MobileNets | {over_plain('mobilenet_v1')[0]:.0f} (v1) to {mobile[1]:.0f} |",
        f"(v2 at {min(shuffle_v2):.1f} to {max(shuffle_v2):.1f} of PyTorch's time), Xception "
        f"({size96['xception']:.1f}) | "
        f"{shuffle[0]:.0f} to {shuffle[1]:.0f}, {over_plain('xception')[0]:.1f} |",
        f"| {times[0][0]:.0f} s, {times[1][0]:.0f} s, {times[2][0]:.0f} s; below 60 s |",
        f"vgg19_bn, in two runs; the longest, {created_longest[1]} | "
        f"{' and '.join(f'{x:.1f}' for x in created('vgg19_bn'))} s, {created_longest[0]:.1f} s |",
        f"the longest, {traced[1]} | {traced[0]:.1f} s |",
    ]


def of_segmentation():
    rows = {row["name"]: row for row in zoo(segmentation=True)}

    def listed(measure, over="torch", under="cnnjax"):
        values = [(row["milliseconds"].get(measure) or row[measure]) for row in rows.values()]
        return ", ".join(f"{value[under] / value[over]:.2f}" for value in values)

    errors = {name: f"{row['parity_error']:.0e}".replace("e-0", "e-") for name, row in rows.items()}
    return [
        f"Of {', '.join(rows)}, in",
        f"except SegNet's of {errors.pop('segnet_vgg16')}, is {max(errors.values(), key=float)}:",
        *(f"| {listed(what)} |" for what in ("training", "throughput", "latency", "memory")),
    ]


SAID = {  # what the pages say in numbers, as it follows from the results
    "README.md": in_readme,
    "docs/lectures.md": in_lectures,
    "docs/benchmarks.md": lambda: [*of_primitives_and_steps(), *of_training(), *of_the_zoo(), *of_segmentation()],
}


@pytest.mark.parametrize("page", SAID)
def test_what_a_page_says_in_numbers_is_what_the_results_say(page):
    text = (ROOT / page).read_text()
    assert [words for words in SAID[page]() if words not in text] == []


@pytest.mark.parametrize("page", SAID)
def test_no_row_of_a_page_s_tables_has_a_number_of_its_own(page):
    text = (ROOT / page).read_text().partition("<!-- networks")[0]
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()[2:] if re.search(r"\| (?:CNN )?-?\d[^|]*\|", row)]
    assert rows
    words = SAID[page]()
    assert [row for row in rows if not any(part in row for part in words)] == []


LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in PAGES)])
def test_every_link_leads_to_a_file_of_the_repository(page):
    folder = (ROOT / page).parent
    links = set(LINK.findall((ROOT / page).read_text()))
    made = {link for link in links if link.startswith("api/")}  # pages of the site alone
    assert [link for link in sorted(links - made) if not (folder / link).exists()] == []


COMMANDS = dict(word.split("=", 1) for word in shlex.split((ROOT / ".ci" / "commands").read_text(), comments=True))


@pytest.mark.parametrize(
    ("page", "names"), [("README.md", ("run", "test")), ("CONTRIBUTING.md", ("test", "parity", "lint", "docs"))]
)
def test_the_commands_that_a_page_shows_are_those_that_ci_runs(page, names):
    shown = [line.strip() for line in (ROOT / page).read_text().splitlines()]
    assert [name for name in names if COMMANDS[name] not in shown] == []


def test_ci_runs_every_command():
    assert set(COMMANDS) <= set(re.findall(r'^bash -c "\$(\w+)', (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
