"""Which process forks the trials? One that has imported torch once, opens no CUDA context and starts no thread.

It is entered by name in a process of its own (`launcher`). It forks on demand, reaps what ends, and ends every trial,
a frozen one included, as soon as the parent's end of the socket closes, whatever ended the parent.
"""

import contextlib
import gc
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import msgspec

from loadtune.lifeline import adopt_orphans, end_with_parent
from loadtune.records.messages import Exited, Ready, Start, Started, Task, ZygoteReply

MESSAGE_LIMIT_BYTES = 1 << 18
"""Largest request. A replay profile of a thousand points fits; a longer one is cut by the kernel and refused."""


def main(socket_fd: int, folder: str) -> None:
    """Import what trials need, then serve until the parent goes; its folder of logs goes with it.

    Args:
        socket_fd: The connection to the parent.
        folder: What the parent would remove, if it still can.
    """
    connection = socket.socket(fileno=socket_fd)
    adopt_orphans()
    started_s = time.monotonic()
    from loadtune.engine import child  # the import that takes seconds, and the reason for this process

    _silence_fork_warning()
    gc.freeze()  # what is imported never moves: the collector must not touch, and so copy, its pages in each fork
    with contextlib.suppress(ConnectionError):  # the parent has gone: the kernel ends the trials with this process
        _send(connection, Ready(import_s=time.monotonic() - started_s))
        _Server(connection, child.run).serve()
    shutil.rmtree(folder, ignore_errors=True)


class Run(Protocol):
    """What a trial process does: a task in, an exit code out; it speaks through the two descriptors."""

    def __call__(self, task: Task, events_fd: int, control_fd: int) -> int:
        """Do the task."""


class _Server:
    """Reads requests, forks, reaps."""

    def __init__(self, connection: socket.socket, run: Run) -> None:
        self._connection = connection
        self._run = run
        self._alive: set[int] = set()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, _note_child)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Return when the parent has gone; nothing of its trials is left then."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            is_open = True
            while is_open:
                for key, _ in selector.select():
                    if key.fileobj is self._connection:
                        is_open = self._take_request()
                    else:
                        self._reap()
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _take_request(self) -> bool:
        content, descriptors, _, _ = socket.recv_fds(self._connection, MESSAGE_LIMIT_BYTES, 3)
        if not content:
            return False
        start = msgspec.json.decode(content, type=Start)
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_trial(start, descriptors, zygote)
        with contextlib.suppress(OSError):  # from both sides: the parent may kill the group as soon as it knows of it
            os.setpgid(pid, pid)
        self._alive.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        _send(self._connection, Started(pid=pid))
        return True

    def _become_trial(self, start: Start, descriptors: list[int], zygote: int) -> NoReturn:
        """Turn this fork into a trial process; it never returns to the server's loop."""
        code = 1
        try:
            os.setpgid(0, 0)
            end_with_parent(zygote)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._connection.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            events, control, log = descriptors
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
            _volunteer_for_oom()
            code = self._run(start.task, events, control)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._alive:  # anything else is an orphaned worker
                self._alive.discard(pid)
                _send(self._connection, _describe_exit(pid, status, usage))


def _describe_exit(pid: int, status: int, usage: resource.struct_rusage) -> Exited:
    return Exited(
        pid=pid,
        exit_code=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
    )


def _send(connection: socket.socket, reply: ZygoteReply) -> None:
    connection.send(msgspec.json.encode(reply))


def _note_child(number: int, frame: FrameType | None) -> None:
    """Do nothing: the signal's byte in the wake-up pipe is what counts."""


def _volunteer_for_oom() -> None:
    """Have the kernel pick the trial when memory runs out, not the parent that holds the results."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _silence_fork_warning() -> None:
    """Numpy's OpenBLAS thread, idle and without a lock, makes Python >= 3.12 warn at each fork; nothing else is."""
    warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork.*", category=DeprecationWarning)
