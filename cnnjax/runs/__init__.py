"""What a run survives: its directory, files, metrics, signals and processes. No training is in here."""

from cnnjax.runs import processes
from cnnjax.runs.directory import Run, as_config, config_hash
from cnnjax.runs.files import LogFile, read_json, write_json, write_text
from cnnjax.runs.metrics import Recorder, read_history
from cnnjax.runs.signals import Interrupted, raised_signals

__all__ = [
    "Interrupted",
    "LogFile",
    "Recorder",
    "Run",
    "as_config",
    "config_hash",
    "processes",
    "raised_signals",
    "read_history",
    "read_json",
    "write_json",
    "write_text",
]
