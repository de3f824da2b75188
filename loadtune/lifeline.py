"""How does a process end with the one that started it? Linux's prctl(2), for trials and their workers."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2), from linux/prctl.h."""


def end_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that forked it dies. Also holds while it is stopped.

    Args:
        parent: Process that forked this one, noted before the fork; None: whoever is the parent now.
    """
    parent = os.getppid() if parent is None else parent
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between, and no signal will come
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that they can be reaped where there is no init."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
