"""What a person sees while a network trains."""

import io

import pytest
from rich.console import Console

from cnnjax.runs import progress


def test_on_a_terminal_the_line_has_epoch_step_loss_accuracy_speed_and_time_left():
    terminal = io.StringIO()
    live = progress.Live(Console(file=terminal, force_terminal=True, width=160), "lecture-cnn/seed0", 4, 10, 0)
    assert live.due()
    live.update(2, 5, {"loss": 1.25, "accuracy": 0.5}, 1234.0)
    assert not live.due()
    live.epoch_done(2, {"loss": 1.2, "val_accuracy": 0.6})
    live.close()
    shown = terminal.getvalue()
    for part in ("lecture-cnn/seed0", "epoch 2/4", "step 5/10", "loss 1.250", "accuracy 0.500", "1,234 images/s", ":"):
        assert part in shown
    assert "val accuracy 0.600" in shown


def test_elsewhere_an_epoch_is_a_plain_line(capsys):
    plain = progress.display("net", 1, 10)
    assert not plain.due()
    plain.epoch_done(1, {"loss": 1.25})
    plain.close()
    assert capsys.readouterr().err == "net  epoch 1/1  loss 1.250\n"


class Times:
    """Monotonic time and seconds of compilation, as a test sets them."""

    def __init__(self, monkeypatch):
        self.now = self.compiled = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(progress.compilation, "seconds", lambda: self.compiled)


def test_compilation_is_told_once_and_is_no_part_of_the_time_left(monkeypatch, capsys):
    times = Times(monkeypatch)
    plain = progress.Plain("net", 5, 10, first_step=10)
    times.now, times.compiled = 112.0, 100.0
    plain.epoch_done(2, {"loss": 1.25})
    times.now = 192.0
    plain.epoch_done(3, {"loss": 1.25})
    plain.epoch_done(5, {"loss": 1.25})
    assert capsys.readouterr().err.splitlines() == [
        "net  compiled in 100 s",
        "net  epoch 2/5  loss 1.250  0:36 left",
        "net  epoch 3/5  loss 1.250  1:32 left",  # 92 seconds for two epochs, and two to come
        "net  epoch 5/5  loss 1.250",
    ]


def test_on_a_terminal_the_time_left_is_without_compilation(monkeypatch):
    terminal, times = io.StringIO(), Times(monkeypatch)
    live = progress.Live(Console(file=terminal, force_terminal=True, width=120), "net", 4, 10, 0)
    times.now, times.compiled = 3605.0, 3600.0
    live.update(1, 5, {"loss": 1.25}, 1234.0)
    live._progress.refresh()
    live.close()
    assert "0:35 left" in terminal.getvalue()


FIGURES = {"accuracy": 0.98765, "loss": 0.012345, "lr": 0.00001, "images_per_second": 1234.5}
FIGURES |= {"val_accuracy": 0.5, "val_loss": 12345.6, "val_top5": 1.0}


@pytest.mark.parametrize("title", ["net", "lecture-cnn/seed0", "a-network-of-a-long-name/seed12345"])
def test_a_line_has_the_most_important_figures_within_80_columns(title, monkeypatch, capsys):
    Times(monkeypatch)
    progress.Plain(title, 200, 10).epoch_done(123, FIGURES)
    (text,) = capsys.readouterr().err.splitlines()
    assert len(text) <= 80
    assert text.startswith(f"{title}  epoch 123/200  accuracy 0.988, val 0.500")
    wide = progress.line("x", FIGURES, ["0:10 left"], 200)
    assert wide == (
        "x  accuracy 0.988, val 0.500  loss 0.0123, val 12300  val top5 1.000  0:10 left  1,234 images/s  lr 0.00001"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0:00"), (7, "0:07"), (59.7, "1:00"), (754, "12:34"), (11045, "3:04:05")]
)
def test_times_are_said_as_people_say_them(seconds, said):
    assert progress.duration(seconds) == said


def test_a_line_that_nobody_takes_ends_nothing(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    progress.Plain("net", 4).epoch_done(1, {"loss": 1.25})
    monkeypatch.setattr("sys.stderr", io.StringIO())
    progress.Plain("net", 2).epoch_done(2, {"loss": 1.25})
    assert progress.sys.stderr.getvalue() == "net  epoch 2/2  loss 1.250\n"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345.6, "12350"), (1e-05, "0.00001"), (0.000123456, "0.0001235"), (0, "0"), (float("nan"), "nan"), (1.5, "1.5")],
)
def test_figures_are_written_in_full(value, shown):
    assert progress.number(value) == shown


def test_at_80_columns_the_bar_is_one_line():
    terminal = io.StringIO()
    live = progress.Live(Console(file=terminal, force_terminal=True, width=80), "lecture-cnn/seed0", 20, 273, 0)
    live.update(2, 5, {"loss": 1.25, "accuracy": 0.5}, 1234.0)
    live._progress.refresh()
    live.close()
    last = terminal.getvalue().rstrip().rpartition("\r")[2]
    assert "epoch 2/20  step 5/273" in last
    assert last.partition("\x1b[?25h")[0].count("\n") == 1  # the one that ends it
