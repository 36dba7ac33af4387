"""Scenes: several of the shapes of `data.shapes` in an image, with exact masks and boxes, for dense tasks."""

from dataclasses import dataclass

import numpy as np

from cnnjax.data.raster import blended, coverage, crossings, inside, mixed
from cnnjax.data.shapes import BLOCK, CLASS_NAMES, CONTOURS, MARGIN, PIXELS, Block, behind, checked, rotated

MOST_OBJECTS = 4
_SCENE_RADIUS = (0.12, 0.26)  # of the widest class
_MOST_COVERED = 0.25  # of the box of an object, by the box of another
_TRIES = 20  # to place an object; a scene has fewer where there is no room


@dataclass(frozen=True, eq=False)
class Scenes:
    """N images of one to four objects each; of those that overlap the later one is in front.

    Boxes are (0, 0, 0, 0) and labels -1 where a scene has fewer objects.
    """

    images: np.ndarray  # uint8 (N, size, size, 3)
    masks: np.ndarray  # uint8 (N, size, size): 0 background, k + 1 for class k
    instances: np.ndarray  # uint8 (N, size, size): 0 background, k + 1 for object k
    labels: np.ndarray  # int32 (N, 4), indices into CLASS_NAMES
    boxes: np.ndarray  # float32 (N, 4, 4): x_min, y_min, x_max, y_max in pixels, tight around the whole object


def generate(count: int, *, size: int = 64, seed: int = 0) -> Scenes:
    """Draw `count` scenes of several objects, `size` x `size` pixels.

    Scene k depends on (seed, k) alone, and `size` changes the resolution, not the scene. Objects differ from what is
    behind them as in `generate`, and from each other by colour and shape; their boxes overlap by a quarter at most.

    Raises ValueError unless count >= 1, size >= 16 and seed >= 0 are integers.
    """
    count, size, seed = checked(count=(count, 1), size=(size, 16), seed=(seed, 0))
    out = Scenes(
        images=np.empty((count, size, size, 3), np.uint8),
        masks=np.zeros((count, size, size), np.uint8),
        instances=np.zeros((count, size, size), np.uint8),
        labels=np.full((count, MOST_OBJECTS), -1, np.int32),
        boxes=np.zeros((count, MOST_OBJECTS, 4), np.float32),
    )
    for first in range(0, count, BLOCK):
        # A key of two numbers: no block of `generate` has the same.
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1, first // BLOCK)))
        block = behind(rng, *_several(rng), colours=2 * MOST_OBJECTS)
        for low in range(first, min(first + BLOCK, count), max(1, PIXELS // size**2)):
            high = min(low + max(1, PIXELS // size**2), first + BLOCK, count)
            own = slice(low - first, high - first)
            _render_scenes(Block(*(field[own] for field in block)), size, out, slice(low, high))
    return out


def _several(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (B, 4), -1 for none, contours (B, 4, V, 2) and no outlines of a block; none is a point in a corner."""
    labels = np.full((BLOCK, MOST_OBJECTS), -1, np.int32)
    contours = np.zeros((BLOCK, MOST_OBJECTS, *CONTOURS.shape[1:]))
    wanted = rng.integers(1, MOST_OBJECTS + 1, BLOCK)
    kinds = rng.integers(0, len(CLASS_NAMES), labels.shape)
    drawn = rng.random((*labels.shape, _TRIES, 4))
    for scene in range(BLOCK):
        boxes: list[np.ndarray] = []
        for kind, tries in zip(kinds[scene, : wanted[scene]], drawn[scene], strict=False):
            for angle, scale, *place in tries:
                radius = _SCENE_RADIUS[0] + (_SCENE_RADIUS[1] - _SCENE_RADIUS[0]) * scale
                path = radius * rotated(CONTOURS[kind], np.array(2 * np.pi * angle))
                room = 1 - 2 * MARGIN - (path.max(0) - path.min(0))
                path += MARGIN - path.min(0) + room * np.array(place)
                box = np.concatenate([path.min(0), path.max(0)])
                if all(_covered(box, other) <= _MOST_COVERED for other in boxes):
                    labels[scene, len(boxes)], contours[scene, len(boxes)] = kind, path
                    boxes.append(box)
                    break
    return labels, contours, np.zeros((BLOCK, 0))


def _covered(box: np.ndarray, other: np.ndarray) -> float:
    """Area that two boxes share, as a share of the smaller one."""
    sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    smaller = min(np.prod(b[2:] - b[:2]) for b in (box, other))
    return float(np.prod(np.maximum(sides, 0)) / smaller)


def _render_scenes(scenes: Block, size: int, out: Scenes, where: slice) -> None:
    """Draw a part of a block into the rows `where` of `out`."""
    shape, objects = (len(scenes.labels), size), 2 * MOST_OBJECTS
    ground_a, ground_b, *clutter = np.moveaxis(scenes.palette[:, objects:], 1, 0)[..., None, None]
    blend = blended(scenes.slope, scenes.noise, size)
    image = mixed(ground_a, ground_b, blend)
    for k, colour in enumerate(clutter):
        image = mixed(image, colour, coverage(crossings(scenes.distractors[:, k], size), shape))
    for number in range(MOST_OBJECTS):
        labels, contours = scenes.labels[:, number], scenes.contours[:, number]
        first, second = np.moveaxis(scenes.palette[:, 2 * number : 2 * number + 2], 1, 0)[..., None, None]
        cross = crossings(contours, size)
        image = mixed(image, mixed(first, second, blend), coverage(cross, shape))
        here = inside(cross, shape)
        out.masks[where][here] = np.broadcast_to(labels[:, None, None] + 1, here.shape)[here]
        out.instances[where][here] = number + 1
        out.labels[where, number] = labels
        out.boxes[where, number] = np.concatenate([contours.min(1)[:, ::-1], contours.max(1)[:, ::-1]], -1) * size
    out.images[where] = np.moveaxis((image * 255 + 0.5).astype(np.uint8), 1, -1)
