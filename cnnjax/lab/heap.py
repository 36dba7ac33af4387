"""Settings of glibc's heap for training on a CPU. They are set before all else, so this file imports almost nothing."""

import os
import sys

# XLA:CPU allocates the temporaries of every step anew. By default glibc returns freed memory to Linux, which zeroes it
# and hands it out again in pages of 4 KB: that takes a tenth to a third of the step of many networks. With these
# settings glibc asks for huge pages and keeps freed memory, except blocks above 1 GiB: a heap that keeps those grows to
# several times the memory that a step of a large network needs.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1099511627776"


def keep_freed_memory() -> None:
    """Start this program once more with `TUNABLES` in its environment, on Linux.

    glibc reads them only when a process starts. The last one of two equal settings counts, so your own GLIBC_TUNABLES
    come last.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and not given.startswith(TUNABLES):
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (TUNABLES, given)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
