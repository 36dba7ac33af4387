"""What is set once for the devices at hand."""

import contextlib
import os
import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax

from cnnjax import __version__
from cnnjax.data import cache_dir

# Dense matrix products by what `device_kind` contains, the first match counts: (float32, bfloat16), from the makers'
# data sheets.
TERAFLOPS = {
    "H200": (494.7, 989.4),
    "H100 PCIe": (378.0, 756.0),
    "H100": (494.7, 989.4),
    "A100": (156.0, 312.0),
    "L40S": (183.0, 362.0),
    "L4": (60.5, 121.0),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
}


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


def peak_flops(devices: Sequence[jax.Device], precision: str) -> float | None:
    """Return the floating-point operations a second that the devices' makers state, all together; None if unknown.

    Args:
        devices: of one kind.
        precision: "bfloat16", or "float32", which XLA multiplies as TF32 on GPUs that have it and as bfloat16 on TPUs.
    """
    kind = devices[0].device_kind
    known = next((peaks for name, peaks in TERAFLOPS.items() if name in kind), None)
    return known and 1e12 * known[precision == "bfloat16"] * len(devices)


def memory_limit(device: jax.Device) -> int | None:
    """Return how many bytes JAX may take of a device's memory; None if it does not say, as of CPUs."""
    return (device.memory_stats() or {}).get("bytes_limit")


def describe_device() -> dict[str, str | int]:
    """Return what a summary says of the machine: kind and number of devices, processes, cores, platform."""
    devices = jax.local_devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
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
