"""Every claim turns when what it is about is broken: an operation, a network, a measurement, or a stored number.

`PARTS` computes each experiment's claims piece by piece, `FAULTS` breaks what some rows of a piece are about. A row
turns if its verdict is not the one in results/claims.json.
"""

import copy
import json
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import data, nn, ops
from cnnjax.lab import experiments
from cnnjax.lab.claims import from_json
from cnnjax.models import fractalnet, googlenet, lecture
from cnnjax.models.backbones import Backbone

RESULTS = Path(__file__).parents[2] / "results"


@cache
def stored(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def summary(name):
    """The published summary of an experiment that has one."""
    return copy.deepcopy(stored(f"{name}/summary")) if (RESULTS / name).is_dir() else None


def rng():
    return np.random.default_rng(0)


# By experiment: pieces of its claims in their order, each with what computes it from the experiment and its summary.
PARTS = {
    "convolution": {
        "examples": lambda e, s: e._examples(),
        "directions": lambda e, s: e._both_directions(rng()),
        "volumes": lambda e, s: e._volumes(rng()),
        "channels": lambda e, s: e._many_channels(rng()),
        "pointwise": lambda e, s: e._pointwise(rng()),
        "moved": lambda e, s: e._moved(),
    },
    "kernels": {
        "steps": lambda e, s: e._steps(),
        "named": lambda e, s: e._named(*responses(e)),
        "blur": lambda e, s: [e._blur(*responses(e))],
        "printed": lambda e, s: e._as_printed(),
    },
    "learn-kernel": {"learned": lambda e, s: e.claims(None)},
    "strides-and-padding": {
        "padded": lambda e, s: e._padded_example(),
        "border": lambda e, s: e._beyond_the_border(),
        "sizes": lambda e, s: e._sizes(),
        "pixels": lambda e, s: e._pixels(),
        "repeated": lambda e, s: e._repeated(),
    },
    "arithmetic": {
        "layers": lambda e, s: e._layers(),
        "relationships": lambda e, s: e._relationships(),
        "errata": lambda e, s: e._errata(),
        "multiplications": lambda e, s: e._multiplications(),
        "explosion": lambda e, s: e._explosion(),
    },
    "pooling": {
        "worked": lambda e, s: e._worked(),
        "kinds": lambda e, s: e._kinds(),
        "invariance": lambda e, s: e._invariance(photographs(e)),
        "structure": lambda e, s: e._structure(),
        "winner": lambda e, s: [e._winner_only()],
        "windows": lambda e, s: e._windows(photographs(e)),
    },
    "receptive-field": {
        "stacks": lambda e, s: [e._stacks(sides(e))],
        "three or seven": lambda e, s: e._three_or_seven(sides(e)),
        "trained": lambda e, s: [e._trained(s)],
        "gaps": lambda e, s: [e._gaps(e.measured())],
        "doubling": lambda e, s: [e._doubling(sides(e))],
    },
    "upsampling": {
        "definitions": lambda e, s: e._definitions(),
        "example": lambda e, s: [e._example()],
        "gradient": lambda e, s: [e._gradient()],
        "learnable": lambda e, s: [e._learnable(e.load(e.Config()))],
    },
    "checkerboard": {
        "overlap": lambda e, s: [e._even_overlap()],
        "squares": lambda e, s: [e._even_squares(drawn(e))],
        "reduced": lambda e, s: [e._reduced(s["trained"], s["random"])],
    },
    "segmentation": {"dilated": lambda e, s: [e._dilated()], "trained": lambda e, s: e.claims(s)[1:]},
    "activations": {
        "vanishing": lambda e, s: e._vanishing(),
        "rectifiers": lambda e, s: e._rectifiers(),
        "losses": lambda e, s: e._loss_claims(),
        "softmax": lambda e, s: [e._softmax_claim()],
    },
    "architectures": {
        "counts": lambda e, s: [e._structure(*group, s["networks"]) for group in e.GROUPS.items()],
        "zfnet": lambda e, s: e._zfnet(),
        "classifier": lambda e, s: e._output_classifier(),
        "fractals": lambda e, s: e._fractals(),
    },
    "fcn-vs-cnn": {"all": lambda e, s: e.claims(s)},
    "augmentations": {"cost": lambda e, s: e.claims(s)},
    "animations": {},
}


def responses(e):
    images = {"china": e.grey("china", 20)}
    return images, {name: e.respond(image) for name, image in images.items()}


def photographs(e):
    return {name: e.load(e.Config(photograph=name)) for name in ("china", "flower")}


def sides(e):
    return {name: [e.extent(field) for field in row] for name, row in e.measured().items()}


def drawn(e):
    return {name: e._means([e.random_outputs(name, 0)], unevenness=e.unevenness) for name in e.DECODERS}


# ---------------------------------------------------------------- faults of operations


def with_kernel(op, change):
    return lambda x, kernel, *rest, **options: op(x, change(kernel), *rest, **options)


def without_last_row(kernel):
    return kernel * (jnp.arange(kernel.shape[0]) < max(kernel.shape[0] - 1, 1))[:, None, None, None]


def middle_row(kernel):
    return kernel * (jnp.arange(kernel.shape[0]) == kernel.shape[0] // 2)[:, None, None, None]


def middle(kernel):
    return middle_row(middle_row(kernel).swapaxes(0, 1)).swapaxes(0, 1)


def first_channel(kernel):
    return kernel * (jnp.arange(kernel.shape[2]) == 0)[:, None]


def conv(**fault):
    """`ops.conv2d` with a fault: a change of the kernel or the result, or options that it ignores."""
    change, result = fault.get("kernel", lambda k: k), fault.get("result", lambda y: y)

    def conv2d(x, kernel, *rest, **options):
        left = {name: value for name, value in options.items() if name not in fault.get("ignored", ())}
        return result(real(x, change(kernel), *rest, **left))

    real = ops.conv2d
    return lambda patch, e: patch.setattr(ops, "conv2d", conv2d)


def cross(kernel):
    places = jnp.abs(jnp.arange(kernel.shape[0]) - kernel.shape[0] // 2)
    return kernel * (places[:, None] + places <= 1)[:, :, None, None]


def rolled(y):
    return jnp.roll(y, 1, 1)


def enlarged(y):
    return jnp.pad(y, ((0, 0), (0, 1), (0, 1), (0, 0)))


def cropped(y):
    return y[:, 1:, 1:]


def accepts_any_depth(patch, e):
    real = ops.conv2d
    patch.setattr(ops, "conv2d", lambda x, k, *rest, **o: real(x[..., : k.shape[2]] if not o else x, k, *rest, **o))


def turned_layout(patch, e):
    real = ops.conv2d

    def conv2d(x, kernel, *rest, layout="NHWC", **options):
        y = real(x, kernel, *rest, layout=layout, **options)
        return y.swapaxes(2, 3) if layout == "NCHW" else y

    patch.setattr(ops, "conv2d", conv2d)


def attribute(holder, name, value):
    """A fault that replaces an attribute of an experiment's module, or of what it has under a dotted name."""

    def fault(patch, e):
        for part in holder.split(".") if holder else ():
            e = getattr(e, part)
        patch.setattr(e, name, value)

    return fault


def pool(name, function):
    """A fault: another function under a pooling's name."""
    return lambda patch, e: patch.setitem(e.POOLS, name, function)


def swapped(patch, e):
    patch.setitem(e.POOLS, "max", ops.min_pool2d)
    patch.setitem(e.POOLS, "min", ops.max_pool2d)


class Learning(nn.Module):
    """A pooling that has a parameter and mixes channels."""

    def __init__(self, window):
        self.weight = nnx.Param(jnp.ones(3))

    def __call__(self, x):
        return ops.max_pool2d(x, 2)[..., :3] * self.weight[...]


def uneven_pooling(patch, e):
    real = ops.avg_pool2d
    patch.setattr(ops, "avg_pool2d", lambda x, window, stride=None, **o: real(x, window, **o))


def lost_transpose(patch, e):
    real = ops.conv_transpose2d
    flip = lambda kernel: kernel[::-1, ::-1]  # noqa: E731
    patch.setattr(ops, "conv_transpose2d", with_kernel(real, flip))


def unlearned(patch, e):
    still = lambda *args, **options: optax.sgd(0.0)  # noqa: E731
    patch.setattr(e, "optax", SimpleNamespace(**vars(optax) | {"sgd": still, "adam": still}))


def mixed_up(patch, e):
    swap = {"nearest": ops.upsample_bilinear, "bilinear": ops.upsample_nearest, "bed of nails": ops.upsample_nearest}
    swap["max-unpooling"] = lambda x, scale: ops.upsample_nearest(ops.max_pool2d(x, scale), scale)
    for name, compute in swap.items():
        patch.setitem(e.F1, name, (*e.F1[name][:2], compute))


def another_network(patch, e):
    real = e.models.create_model
    patch.setattr(e.models, "create_model", lambda name, **options: real("alexnet", **options))


def even_decoder(patch, e):
    patch.setitem(e.DECODERS, "transposed 3x3", e.DECODERS["resize, then 3x3"])


def unit(name, function):
    """A fault: another function under an activation's name."""
    return lambda patch, e: patch.setitem(e.UNITS, name, e.UNITS[name]._replace(function=function))


def units(**functions):
    return lambda patch, e: [unit(name, function)(patch, e) for name, function in functions.items()]


# ---------------------------------------------------------------- faults of networks and of stored numbers


def without_last_relu(patch, e):
    def fcn(self, x):
        x = self.flatten(x)
        for dense in self.dense[:-2]:
            x = nnx.relu(dense(x))
        return self.dense[-1](self.dense[-2](x))

    patch.setattr(lecture.LectureFCN, "__call__", fcn)


def without_a_relu(patch, e):
    def cnn(self, x):
        x = nnx.relu(self.conv2(self.pool(nnx.relu(self.conv1(x)))))
        return self.dense2(nnx.relu(self.dense1(self.flatten(self.conv3(x)))))

    patch.setattr(lecture.LectureCNN, "__call__", cnn)


def joined_by_sum(patch, e):
    patch.setattr(fractalnet.Join, "__call__", lambda self, inputs, only=None: sum(inputs[1:], inputs[0]))


def zeros_without_dropout(patch, e):
    real = googlenet.GoogLeNet.__call__

    def call(self, x):
        found = real(self, x)
        return 0 * found if self.deterministic else found._replace(logits=0 * found.logits, auxiliary=())

    patch.setattr(googlenet.GoogLeNet, "__call__", call)


def without_dropout(patch, e):
    patch.setattr(googlenet, "Dropout", lambda rate, rngs: nn.Activation(lambda x: x))


def large_classifier(patch, e):
    patch.setattr(e.models, "count_params", lambda module: 100_000_000)


def spoiled(change):
    return SimpleNamespace(change=change)  # of the summary


def one_more(s):
    for row in s["networks"].values():
        row["params"] += 1
        row["macs"] *= 1.02


def worse(s):
    s["networks"]["three 3x3"]["test_accuracy"] = 0.5


def noisy(s):
    s["networks"]["three 3x3"]["test_accuracy_by_seed"] = [0.1, 1.0, 0.1, 1.0, 0.6]


def as_uneven(s):
    s["trained"]["transposed 2x2"]["share"] = s["trained"]["transposed 3x3"]["share"]


def as_even(s):
    s["random"]["transposed 2x2"]["share"] = 0.5 * s["random"]["transposed 3x3"]["share"]


def thin_kept(s):
    s["networks"]["DeepLab, not dilated"]["by_seed"][0]["thin_accuracy"] = 1


def another_order_each_seed(s):
    for number, network in enumerate(s["networks"].values()):
        network["by_seed"] = [{"mean_iou": iou, "boundary_f1": 0, "thin_accuracy": 0} for iou in (number, -number)]


def one_class_for_all(s):
    s["networks"]["encoder-decoder"]["mean_iou"] = 0.1


def learns_nothing(s):
    for network in s["models"].values():
        network["test_accuracy"] = 0.1
        network["curves"] = {key: [values[0]] * 20 for key, values in network["curves"].items()}


def another_order(s):
    if not data.is_prepared("cifar10"):
        pytest.skip("needs CIFAR-10, prepared by TFDS")
    s["data"]["first_nine"].reverse()


def costly(patch, e):
    measured = json.loads((RESULTS / "bench" / "augment.json").read_text())
    for row in measured["rows"]:
        row["percent_of_step"] = 11
    patch.setattr(e.runs, "read_json", lambda path: measured)


def in_a_row(patch, e):
    grid = e.viz.image_grid
    patch.setattr(e.viz, "image_grid", lambda images, titles, columns: grid(images, titles, 9))


CONV, LINEAR, LP_POOL = nn.Conv, nn.Linear, nn.LPPool  # as they are without a fault
FLIPPED = conv(kernel=lambda kernel: kernel[::-1, ::-1])
SHORT = conv(kernel=without_last_row)


class Rolled(Backbone):
    """Maps that lie one value beside their place."""

    def __call__(self, x):
        return tuple(jnp.roll(maps, 1, 1) for maps in super().__call__(x))


FAULTS = [  # experiment, piece, the rows of the piece that turn, fault
    ("convolution", "examples", (0, 1), SHORT),
    ("convolution", "examples", (1,), FLIPPED),
    ("convolution", "directions", (0, 1, 3), attribute("ops", "convolve2d", ops.conv2d)),
    ("convolution", "directions", (2,), FLIPPED),
    ("convolution", "volumes", (0,), conv(kernel=first_channel)),
    ("convolution", "volumes", (1,), accepts_any_depth),
    ("convolution", "volumes", (2,), turned_layout),
    ("convolution", "channels", (0, 1, 2), conv(kernel=first_channel)),
    ("convolution", "pointwise", (0, 1), conv(result=rolled)),
    ("convolution", "moved", (0,), conv(ignored=("padding_mode",))),
    ("convolution", "moved", (1,), SHORT),
    ("kernels", "steps", (0, 1, 2), SHORT),
    ("kernels", "named", (0, 1, 2, 3, 4, 5), SHORT),
    ("kernels", "named", (0, 1, 2, 3, 5), FLIPPED),
    ("kernels", "blur", (0,), SHORT),
    ("kernels", "printed", (0, 1), conv(kernel=middle_row)),
    ("learn-kernel", "learned", (0, 1, 2, 3), unlearned),
    ("strides-and-padding", "padded", (0, 1), SHORT),
    ("strides-and-padding", "border", (1,), conv(ignored=("padding_mode",))),
    ("strides-and-padding", "border", (0, 1), SHORT),
    ("strides-and-padding", "sizes", (0, 1, 2, 3, 4, 5), conv(result=cropped)),
    ("strides-and-padding", "pixels", (1, 2, 3), SHORT),
    ("strides-and-padding", "pixels", (0, 1, 2), conv(result=partial(jnp.multiply, 2))),
    ("strides-and-padding", "repeated", (0,), conv(ignored=("padding",))),
    ("arithmetic", "layers", (0, 1), attribute("nn", "Conv", partial(nn.Conv, bias=False))),
    ("arithmetic", "relationships", (0, 1, 2, 3, 4, 5), conv(result=enlarged)),
    ("arithmetic", "relationships", (0, 1, 2, 3, 4, 5), conv(result=lambda y: y[:, :, 1:])),
    ("arithmetic", "relationships", (6,), SHORT),
    ("arithmetic", "errata", (0, 1, 2, 3), conv(result=cropped)),
    ("arithmetic", "multiplications", (0, 1), conv(kernel=first_channel)),
    ("arithmetic", "explosion", (0, 2), attribute("nn", "Conv", lambda c, f, k, **o: CONV(c, 100 * f, 4 * k, **o))),
    ("arithmetic", "explosion", (1, 2), attribute("nn", "Linear", lambda i, o, **k: LINEAR(i, o + 1, **k))),
    ("pooling", "worked", (0, 1), attribute("ops", "max_pool2d", ops.min_pool2d)),
    ("pooling", "kinds", (0,), swapped),
    ("pooling", "kinds", (1,), pool("average", ops.max_pool2d)),
    ("pooling", "invariance", (0, 1), pool("max", ops.avg_pool2d)),
    ("pooling", "structure", (0, 1), attribute("nn", "MaxPool", Learning)),
    ("pooling", "structure", (2,), attribute("nn", "LPPool", lambda p, window: LP_POOL(1, window))),
    ("pooling", "winner", (0,), attribute("ops", "max_pool2d", ops.avg_pool2d)),
    ("pooling", "windows", (0,), uneven_pooling),
    ("pooling", "windows", (1,), attribute("ops", "upsample_nearest", lambda x, scale: jnp.zeros((1, 128, 128, 1)))),
    ("receptive-field", "stacks", (0,), conv(kernel=middle)),
    ("receptive-field", "three or seven", (0,), conv(kernel=middle)),
    ("receptive-field", "three or seven", (1,), attribute("geometry", "conv_params", lambda i, o, k, bias: i * o * k)),
    ("receptive-field", "trained", (0,), spoiled(worse)),
    ("receptive-field", "trained", (0,), spoiled(noisy)),
    ("receptive-field", "gaps", (0,), conv(kernel=cross)),
    ("receptive-field", "doubling", (0,), conv(kernel=middle)),
    ("upsampling", "definitions", (0, 1, 2, 3), mixed_up),
    ("upsampling", "example", (0,), lost_transpose),
    ("upsampling", "gradient", (0,), lost_transpose),
    ("upsampling", "learnable", (0,), unlearned),
    (
        "checkerboard",
        "overlap",
        (0,),
        attribute("ops", "conv_transpose2d", with_kernel(ops.conv_transpose2d, without_last_row)),
    ),
    ("checkerboard", "squares", (0,), even_decoder),
    ("checkerboard", "reduced", (0,), spoiled(as_uneven)),
    ("checkerboard", "reduced", (0,), spoiled(as_even)),
    ("segmentation", "dilated", (0,), attribute("", "Backbone", Rolled)),
    ("segmentation", "trained", (0,), spoiled(thin_kept)),
    ("segmentation", "trained", (1,), spoiled(another_order_each_seed)),
    ("segmentation", "trained", (2, 3), spoiled(one_class_for_all)),
    ("activations", "vanishing", (0, 1), units(sigmoid=lambda x: x, tanh=lambda x: 2 * x)),
    ("activations", "rectifiers", (0, 1, 2), units(ReLU=jax.nn.sigmoid, ReLU6=jax.nn.relu, softplus=jax.nn.sigmoid)),
    ("activations", "losses", (0,), attribute("", "mean_squared_error", lambda y, t: y.sum(1))),
    ("activations", "losses", (1,), attribute("", "softmax_cross_entropy", lambda y, t: y.sum(1))),
    ("activations", "softmax", (0,), attribute("jax.nn", "softmax", jax.nn.sigmoid)),
    ("architectures", "counts", tuple(range(10)), spoiled(one_more)),
    ("architectures", "zfnet", (0, 1), another_network),
    ("architectures", "classifier", (0, 1, 3), zeros_without_dropout),
    ("architectures", "classifier", (1,), without_dropout),
    ("architectures", "classifier", (2,), large_classifier),
    ("architectures", "fractals", (0, 1), joined_by_sum),
    ("fcn-vs-cnn", "all", (0, 2), without_last_relu),
    ("fcn-vs-cnn", "all", (1, 3), without_a_relu),
    ("fcn-vs-cnn", "all", (2, 3, 4, 5), spoiled(learns_nothing)),
    ("fcn-vs-cnn", "all", (6,), spoiled(another_order)),
    ("fcn-vs-cnn", "all", (6,), in_a_row),
    ("augmentations", "cost", (0,), costly),
]
COMPUTED = ("learn-kernel", "checkerboard", "fcn-vs-cnn", "pooling", "receptive-field", "upsampling", "activations")
SLOW = ("classifier", "fractals")


def size(name, piece):
    """How many rows a piece of an experiment's claims has, by the faults that there are."""
    return 1 + max(max(rows) for other, part, rows, _ in FAULTS if (other, part) == (name, piece))


def name_of(fault):
    return getattr(getattr(fault, "change", fault), "__name__", "fault").strip("<>")


def cases():
    for number, (name, piece, rows, fault) in enumerate(FAULTS):
        slow = piece in SLOW or (name in COMPUTED and not hasattr(fault, "change")) or name == "fcn-vs-cnn"
        marks = [pytest.mark.published] * slow
        yield pytest.param(name, piece, rows, fault, marks=marks, id=f"{number}-{name}-{piece}-{name_of(fault)}")


@pytest.mark.parametrize(("name", "piece", "rows", "fault"), list(cases()))
def test_a_claim_turns_where_what_it_is_about_is_broken(monkeypatch, name, piece, rows, fault):
    experiment = experiments.load(name)
    before = sum(size(name, part) for part in list(PARTS[name])[: list(PARTS[name]).index(piece)])
    sound = [from_json(row) for row in stored("claims")[name]["claims"]][before : before + size(name, piece)]
    found = summary(name)
    if hasattr(fault, "change"):
        fault.change(found)
    else:
        fault(monkeypatch, experiment)
    forget(experiment)
    claims = list(PARTS[name][piece](experiment, found))
    forget(experiment)
    assert [claim.id for claim in claims] == [claim.id for claim in sound]
    assert all(claim.ok for claim in sound)
    assert {index for index in rows if claims[index].verdict == sound[index].verdict} == set()


def forget(experiment):
    """Have what an experiment compiles at its top compiled again."""
    for function in vars(experiment).values():
        getattr(function, "clear_cache", lambda: None)()


@pytest.mark.parametrize("name", list(experiments.files()))
def test_for_every_claim_there_is_a_fault_that_turns_it(name):
    turned = {
        piece: {row for other, part, rows, _ in FAULTS if (other, part) == (name, piece) for row in rows}
        for piece in PARTS[name]
    }
    assert {piece: rows for piece, rows in turned.items() if rows != set(range(len(rows)))} == {}
    assert sum(map(len, turned.values())) == len(stored("claims")[name]["claims"])
