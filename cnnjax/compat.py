"""The private interfaces of other packages that cnnjax uses: each with its reason, and what would make it unnecessary.

No other file of the package touches a private name of another one, or replaces a part of it. Each function imports what
it needs when it is called.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

_abort_handler: Any = None  # keeps the C callback alive: the C library's own reference does not count


def coordination() -> Any:
    """Return the state of JAX's coordination service: `num_processes`, `process_id` and `client`.

    `jax.process_count` and `jax.process_index` start a backend, which must not happen before `jax.distributed` is
    initialized; and the client, which stores values by key for all processes, has no public name (checked up to JAX
    0.12). A public key-value store in `jax.distributed` would replace this.
    """
    from jax._src import distributed

    return distributed.global_state


def replace_abort(end: Callable[[], None]) -> None:
    """Call `end`, which must not return, where JAX would abort this process, and hide the stack trace that it prints.

    JAX calls `abort` from a thread of its own as soon as the coordination service reports that another process is lost
    (checked up to JAX 0.12). `signal.signal` is of no use, because a handler in Python would run only after `abort` has
    ended the process. An argument of `jax.distributed.initialize` for what to do then would replace this. The message
    is of a level above the highest that JAX's public setting, `jax_logging_level`, can hide.
    """
    global _abort_handler

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(signum: int) -> None:
        end()

    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        from jaxlib import utils

        utils.absl_set_min_log_level(4)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    _abort_handler = handler


def skip_tfds_bucket(tfds: ModuleType) -> None:
    """Keep TFDS from making a temporary folder, which it leaves behind, for every set that is not prepared.

    The folder is for the description of the set in a bucket that TFDS no longer asks (checked in 4.9.10); no argument
    of `tfds.builder` prevents it. A release of TFDS that drops `DatasetInfo.initialize_from_bucket` needs this no more.
    """
    tfds.core.DatasetInfo.initialize_from_bucket = lambda self: None


def submitit_script(executor: Any) -> str:
    """Return the batch script that a `submitit.SlurmExecutor` would submit.

    submitit writes it only to submit it (checked in 1.5.4); a public way to write the script would replace this.
    """
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))
