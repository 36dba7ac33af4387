"""What the annotations of the public functions state, and what `import cnnjax.ops` needs."""

import subprocess
import sys
from typing import get_args, get_type_hints

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import assume, given, settings

from tests.ops.operations import PUBLIC, by_name


@pytest.mark.parametrize("operation", PUBLIC, ids=by_name)
def test_arrays_have_the_shapes_that_the_annotations_state(operation):
    names = {"Array": jax.Array, "Float": jaxtyping.Float, "Int": jaxtyping.Int}
    hints = get_type_hints(operation.compute, localns=names)
    returned = get_args(hints["return"]) if hints["return"].__name__ == "tuple" else (hints["return"],)

    @settings(max_examples=20)
    @given(operation.cases)
    def holds(case):
        assume(case.options.get("layout") != "NCHW")  # the annotations are of the other

        def call(**arrays):
            results = operation.compute(**arrays, **case.options)
            with jaxtyping.jaxtyped("context"):
                for name, array in arrays.items():
                    assert isinstance(array, hints[name]), name
                for result, hint in zip(jax.tree.leaves(results), returned, strict=True):
                    assert isinstance(result, hint), f"{hint}, not {result.shape}"
            return results

        jax.eval_shape(call, **{k: a.astype(np.float32) if k in case.floats else a for k, a in case.arrays.items()})

    holds()


def test_importing_ops_imports_jax_alone():
    program = (
        "import sys, jax, numpy; before = set(sys.modules); import cnnjax.ops; "
        "print(*{'.'.join(name.split('.')[:2]) for name in set(sys.modules) - before})"
    )
    imported = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert {name for name in imported if name.startswith("cnnjax")} == {"cnnjax", "cnnjax.ops"}
    allowed = sys.stdlib_module_names | {"cnnjax", "jax", "jaxlib", "numpy"}
    assert {name.partition(".")[0] for name in imported} <= allowed
