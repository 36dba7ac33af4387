"""What a training says of itself: its speed by counting, and a display and a profile where they are asked for."""

import threading

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import nn, runs, train
from cnnjax.runs.progress import Silent
from cnnjax.train import checkpoints, loop, reporting
from tests.train.test_loop import images


class Plain(nn.Module):
    def __init__(self, rngs):
        self.conv = nn.Conv(3, 2, 3, rngs=rngs)
        self.flatten = nn.Flatten()
        self.dense = nn.Linear(72, 4, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.flatten(self.conv(x)))


@pytest.mark.parametrize(("steps", "seeds", "counted"), [(5, 1, 72), (3, 1, 40), (5, 2, 72)])
def test_speed_counts_the_images_and_products_of_the_steps_that_were_done(monkeypatch, steps, seeds, counted):
    """72 images in 5 batches of 16, the last of which has 8; of 3 steps of a resumed epoch it is one."""
    monkeypatch.setattr(reporting, "peak_flops", lambda devices, precision: 1e9)
    recipe = train.Recipe(lr=0.1, schedule="exponential", epochs=3, batch_size=16)
    speed = reporting.speed_of(Plain(nnx.Rngs(0)), images(72), recipe, train.Parallel(), seeds)
    figures = speed(reporting.Epoch(2, None, steps, 4.0))
    products = 6 * 6 * 2 * 27 + 72 * 4  # of an image; each is two operations, and three times with the backward pass
    rate = counted / (4.0 / seeds)
    expected = {"seconds": 4.0 / seeds, "step_ms": 4000 / seeds / steps, "images_per_second": rate}
    expected |= {"flop_utilization": rate * 6 * products / 1e9, "lr": 0.1 * 0.1 ** (9 / 5)}
    assert figures == pytest.approx(expected, rel=1e-5)


def test_progress_is_shown_by_the_first_process_alone(monkeypatch):
    for first in (True, False):
        monkeypatch.setattr(loop.processes, "is_first", lambda first=first: first)
        with loop.watched("net", 1, 1, 0) as (shown, _):
            assert (type(shown) is Silent) != first


@pytest.mark.parametrize("profile", [False, True])
def test_a_profile_is_only_made_where_it_is_asked_for(tmp_path, profile):
    run = runs.Run(tmp_path, "test", profile=profile)
    run.create()
    with loop.opened(run.part("net"), [train.Callback()]) as (title, _, observers):
        assert title == "net"
        assert len(observers) == 1 + profile


def test_threads_of_failed_saves_are_seen_among_others(monkeypatch):
    class Saving(threading.Thread):
        __module__ = "orbax.checkpoint.threads"

    ours = [threading.main_thread(), threading.Thread()]
    for threads, stuck in ((ours, False), ([*ours, Saving()], True)):
        monkeypatch.setattr(checkpoints.threading, "enumerate", lambda threads=threads: threads)
        assert checkpoints.are_saves_stuck() == stuck


def test_a_process_takes_the_images_of_its_own_devices():
    parallel = train.Parallel(devices=jax.local_devices()[:4])
    order = np.arange(24).reshape(2, 12)  # of two steps
    np.testing.assert_array_equal(parallel.own(order), order)
    parallel.__dict__["local"] = parallel.devices[1:3]  # where the others belong to other processes
    assert parallel.shared
    np.testing.assert_array_equal(parallel.own(order), order[:, 3:9])
