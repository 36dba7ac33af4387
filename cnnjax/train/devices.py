"""What is set once for the devices at hand."""

import contextlib
import ctypes
import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

import jax

from cnnjax import __version__
from cnnjax.data import cache_dir


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, so that a second start compiles nothing."""
    try:
        folder = cache_dir() / "xla"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # data.cached says that the cache cannot be written
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, instead of returning it to the system at once.

    XLA:CPU allocates the temporaries of every call anew. glibc maps blocks above 32 MB afresh and unmaps them when
    freed, so every step faults each page in again (measured: a quarter of the time of a transposed convolution's
    gradient). Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX of malloc.h
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20)):
        libc.mallopt(option, value)


def describe_device() -> dict[str, str | int]:
    """Return what a summary says of the machine: kind and number of devices, cores, platform."""
    devices = jax.local_devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cpu_cores": os.cpu_count() or 0,
        "machine": platform.machine(),
    }


def describe_versions() -> dict[str, str]:
    """Return the versions that decide a result."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {"python": platform.python_version(), "cnnjax": __version__, **{name: version(name) for name in packages}}


def peak_memory() -> int:
    """Return the most memory in bytes that this program has held."""
    with contextlib.suppress(OSError):  # Linux; getrusage there starts from what the process held that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
