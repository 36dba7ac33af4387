"""What a task makes of outputs at their edges: equal scores, single outputs, pixels between two bytes, pictures."""

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import tasks
from cnnjax.data.augment import Sample
from cnnjax.tasks import losses

TASK = tasks.Classification()


def test_of_equal_scores_the_first_classes_are_named():
    scores = np.full((1, 40), 1 / 40, np.float32)
    (row,) = TASK.to_json({"label": np.array([0]), "scores": scores})
    assert list(row["scores"]) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("logits", "expected"), [([[-0.1], [0.1]], [0, 1]), ([[0.2, 0.1], [0.1, 0.2]], [0, 1])])
def test_a_class_is_decided_at_a_logit_of_0_or_by_the_larger_one(logits, expected):
    np.testing.assert_array_equal(TASK.decode(jnp.float32(logits))["label"], expected)


def test_an_output_learned_by_squared_errors_decides_at_a_half():
    task = tasks.Classification(tasks.ClassificationLoss("mse"))
    np.testing.assert_array_equal(task.decode(jnp.float32([[0.4], [0.6]]))["label"], [0, 1])


def test_mixed_labels_count_as_their_most_probable_class():
    batch = Sample(np.zeros((2, 1, 1, 3)), np.float32([[0.7], [0.2]]), weights=np.ones(2, np.float32))
    measured = TASK.measure(jnp.float32([[1.0], [-1.0]]), batch)
    assert float(measured["accuracy"]) == 2
    np.testing.assert_array_equal(measured["confusion"], np.eye(2))
    batch = Sample(np.zeros((2, 1, 1, 3)), np.float32([[0.4, 0.6], [0.9, 0.1]]), weights=np.ones(2, np.float32))
    np.testing.assert_array_equal(TASK.measure(jnp.float32([[1, 0], [0, 1]]), batch)["confusion"], [[0, 1], [1, 0]])


def test_softmax_takes_two_logits_and_not_one():
    logits = np.float32([[0.3, -0.2]])
    expected = np.log(np.exp(logits).sum(1)) - logits[:, 1]
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, np.array([1])), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="logits"):
        losses.softmax_cross_entropy(logits[:, :1], np.array([0]))


def test_pictures_are_rounded_to_bytes():
    assert tasks.Reconstruction().to_json(np.float32([[[[0.1, 0.999, 0.5]]]])) == [[[[26, 255, 128]]]]


@pytest.mark.parametrize(("count", "columns"), [(2, 2), (6, 6), (8, 6)])
def test_classified_images_stand_in_rows_of_six(count, columns):
    predictions = {"label": np.zeros(count, int), "scores": np.ones((count, 1))}
    figure = TASK.draw(np.zeros((count, 4, 4, 3), np.uint8), predictions)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == count
    assert len({round(axes.get_position().x0, 3) for axes in shown}) == columns


@pytest.mark.parametrize(("count", "columns"), [(1, 2), (5, 8)])
def test_an_image_stands_beside_its_reconstruction_four_pairs_in_a_row(count, columns):
    figure = tasks.Reconstruction().draw(np.zeros((count, 4, 4, 3), np.uint8), np.ones((count, 4, 4, 3)))
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["image", "reconstruction"] * count
    assert len({round(axes.get_position().x0, 3) for axes in shown}) == columns
    assert [float(axes.images[0].get_array().max()) for axes in shown[:2]] == [0, 1]
