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
    assert "val_accuracy 0.6" in shown


def test_elsewhere_an_epoch_is_a_plain_line(capsys):
    plain = progress.display("net", 4, 10)
    assert not plain.due()
    plain.epoch_done(1, {"loss": 1.25})
    plain.close()
    assert capsys.readouterr().err == "net  epoch 1/4  loss 1.25\n"


def test_a_line_that_nobody_takes_ends_nothing(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    progress.Plain("net", 4).epoch_done(1, {"loss": 1.25})
    monkeypatch.setattr("sys.stderr", io.StringIO())
    progress.Plain("net", 4).epoch_done(2, {"loss": 1.25})
    assert progress.sys.stderr.getvalue() == "net  epoch 2/4  loss 1.25\n"


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
