"""Options given from Python: NumPy's and JAX's numbers are taken as Python's, and other types are refused."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data, train
from cnnjax.options import Checked, Range


@dataclass(frozen=True)
class Several(Checked):
    means: Annotated[tuple[float, ...], Range("positive", lambda given: all(x > 0 for x in given))] | None = None
    folder: Path | None = None
    either: str | tuple[float, ...] = ""


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), np.array(3), jnp.asarray(3)])
def test_numbers_of_numpy_and_jax_become_python_s(three):
    recipe = train.Recipe(epochs=three, lr=np.float32(0.5), momentum=None, sync_batch_norm=np.True_)
    assert (type(recipe.epochs), type(recipe.lr), recipe.sync_batch_norm) == (int, float, True)
    assert recipe == train.Recipe(epochs=3, lr=0.5, sync_batch_norm=True)
    assert json.loads(json.dumps(asdict(recipe)))["epochs"] == 3


def test_paths_and_text_become_what_the_field_has():
    assert data.Source(data=Path("a") / "b").data == str(Path("a") / "b")
    assert Several(folder="a/b").folder == Path("a/b")
    assert Several(means=(1.0, 2.0), either=(0.5,)).either == (0.5,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sync_batch_norm": "no"}, "`sync_batch_norm` must be True or False, got 'no'"),
        ({"sync_batch_norm": 1}, "`sync_batch_norm` must be True or False, got 1"),
        ({"epochs": np.float32(3)}, "`epochs` must be an integer of at least 1, got 3.0"),
        ({"epochs": True}, "`epochs` must be an integer of at least 1, got True"),
        ({"epochs": np.int64(0)}, "`epochs` must be an integer of at least 1, got 0"),
        ({"lr": "0.1"}, "`lr` must be larger than 0 and finite, got '0.1'"),
        ({"lr": np.array([0.1, 0.2])}, "`lr` must be larger than 0 and finite, got array"),
        ({"lr": np.float32("nan")}, "`lr` must be larger than 0 and finite, got nan"),
        ({"augment": ["mirror"]}, "`augment` must be names from this list"),
    ],
)
def test_other_types_are_refused_with_the_argument_s_name(options, said):
    with pytest.raises(ValueError, match="^" + said.replace("(", r"\(")):
        train.Recipe(**options)


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(ValueError, match="`data` must be text, got 3"):
        data.Source(data=3)
    with pytest.raises(ValueError, match="`means` must be positive"):
        Several(means=(0.0,))
