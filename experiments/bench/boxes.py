"""Suppression and aligned features of boxes as rows of `bench ops`: boxes, plain JAX, and torch's pure form."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

from cnnjax import ops

SIDE, STRIDE, KEPT = 512, 16, 100  # pixels of the image, and of a cell of its map; boxes kept


def random_boxes(count: int) -> np.ndarray:
    """Return boxes of 16 to 256 pixels inside of the image, (count, 4)."""
    rng = np.random.default_rng(0)
    size = rng.uniform(16, 256, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (SIDE - size)
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


SOME = random_boxes(1000)
ROIS = np.concatenate([np.zeros((256, 1), np.float32), SOME[:256]], 1)


def kept_scores(x: jax.Array) -> jax.Array:
    """Return the scores of what `ops.nms` keeps, so that there is something to derive."""
    scores = x.ravel()
    return scores[ops.nms(jnp.asarray(SOME), scores, 0.5, max_output=KEPT)[0]][:, None]


def plain_kept_scores(x: jax.Array) -> jax.Array:
    """Return the same by a loop that takes the best box left, one after the other."""
    scores, overlaps = x.ravel(), ops.box_iou(jnp.asarray(SOME), jnp.asarray(SOME)) > 0.5

    def keep(step: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, kept = state
        best = left.argmax()
        return jnp.where(overlaps[best], -jnp.inf, left), kept.at[step].set(best)

    start = lax.stop_gradient(scores), jnp.zeros(KEPT, int)
    return scores[lax.fori_loop(0, KEPT, keep, start)[1]][:, None]


def torch_kept_scores(functional: Any) -> Callable[..., Any]:
    """Return the same with torchvision's overlaps and a loop, as its compiled `nms` may be missing."""
    theirs, torch = torchvision("ops.boxes"), import_module("torch")

    def kept_scores(x: Any) -> Any:
        scores, boxes = x.flatten(), torch.tensor(SOME, device=x.device)
        overlaps, left, kept = theirs.box_iou(boxes, boxes) > 0.5, scores.detach().clone(), []
        for _ in range(KEPT):
            kept.append(left.argmax())
            left[overlaps[kept[-1]]] = -torch.inf
        return scores[torch.stack(kept)][:, None]

    return kept_scores


def aligned(x: jax.Array) -> jax.Array:
    """Return the features of 256 boxes in 7 x 7 bins."""
    return ops.roi_align(x, jnp.asarray(ROIS), 7, spatial_scale=1 / STRIDE, sampling_ratio=2)


def plain_aligned(x: jax.Array) -> jax.Array:
    """Return the same by gathering the four neighbours of every point."""
    corners = jnp.asarray(ROIS[:, 1:]) / STRIDE
    sizes = jnp.maximum(corners[:, 2:] - corners[:, :2], 1)
    points = corners[:, :2, None] + (jnp.arange(14) + 0.5) / 14 * sizes[:, :, None]

    def features(points: jax.Array) -> jax.Array:
        places = jnp.meshgrid(points[1], points[0], indexing="ij")
        values = jax.vmap(lambda plane: map_coordinates(plane, places, 1, "nearest"), 2, 2)(x[0])
        return values.reshape(7, 2, 7, 2, -1).mean((1, 3))

    return jax.vmap(features)(points)


def torch_aligned(functional: Any) -> Callable[..., Any]:
    """Return the same by torchvision's pure form, without compiling it."""
    theirs, torch = torchvision("ops.roi_align")._roi_align, import_module("torch")
    form = getattr(theirs, "__wrapped__", theirs)
    return lambda x: form(x, torch.tensor(ROIS, device=x.device), 1 / STRIDE, 7, 7, 2, False)


def torchvision(module: str) -> Any:
    """Return a module of torchvision, whose compiled operators may be missing."""
    import_module("experiments.bench.torchvision_without_ops")
    return import_module(f"torchvision.{module}")


# The name, shapes, and the three contenders of each row.
ROWS = (
    ("nms of 1000", ((1, 1, 1, 1000),), kept_scores, plain_kept_scores, torch_kept_scores),
    ("roi align of 256", ((1, SIDE // STRIDE, SIDE // STRIDE, 256),), aligned, plain_aligned, torch_aligned),
)
