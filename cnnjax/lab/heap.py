"""The heap that a training on a CPU runs best with. Imports nothing, for it is set before anything else is read."""

import os
import sys

# XLA:CPU allocates the temporaries of every step anew. glibc returns freed memory to Linux at once, and Linux hands it
# out again zeroed, 4 KB at a time: a tenth to a third of many networks' training step. So glibc asks for huge pages and
# keeps what is freed. Blocks above 1 GiB are still returned, because a heap that keeps them grows to several times what
# a large network's step needs.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1099511627776"


def keep_freed_memory() -> None:
    """Start this program over with `TUNABLES` in its environment, once, on Linux.

    glibc reads them only as a process starts. Of settings that are given twice the last one counts, so your own
    GLIBC_TUNABLES go last.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and not given.startswith(TUNABLES):
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (TUNABLES, given)))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
