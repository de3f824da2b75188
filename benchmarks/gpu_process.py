"""How does `benchmarks.gpu` start its trials? By one process that stays, with the face of a `Launcher`.

The runner asks, polls and releases as ever, and watches the process from outside. A trial that fails leaves the process
alive; one that dies or hangs takes it along, and the next trial has a new one.
"""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import IO

import msgspec

from loadtune.engine.leftovers import end_group, sweep_shared_memory, wait_for_end
from loadtune.records.messages import CacheRead, CudaChecked, Event, Exited, Failed, Inspected, Measured, Task

ROOT = Path(__file__).resolve().parent.parent
LOG_TAIL_BYTES = 4000
END_LIMIT_S = 5.0
"""Longest wait for a killed process to be gone."""
LAST_EVENTS = (Measured, Failed, Inspected, CacheRead, CudaChecked)
"""A task is over when it has told one of these."""
FAILED_EXIT_CODE = 3


class KeptTask:
    """One task of the kept process, with the face of a `TrialProcess`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.pid = process.pid
        self.inbox: deque[Event] = deque()
        self.exit: Exited | None = None
        self.is_over = False
        self._process, self._log = process, log
        self._log_begin = os.fstat(log.fileno()).st_size

    def go_on(self) -> None:
        """Let the task pass the point at which it waits for the parent."""
        write_line(self._process, b"")

    def log_tail(self) -> str:
        """Return the last that was printed since the task began."""
        size = os.fstat(self._log.fileno()).st_size
        begin = max(self._log_begin, size - LOG_TAIL_BYTES)
        return os.pread(self._log.fileno(), size - begin, begin).decode("utf-8", "replace").strip()

    def hear(self, event: Event) -> None:
        """File an event. A failure ends the task, though not the process."""
        self.inbox.append(event)
        self.is_over = self.is_over or isinstance(event, LAST_EVENTS)
        if isinstance(event, Failed):
            self.end(FAILED_EXIT_CODE)

    def end(self, status: int) -> None:
        """Note how it ended; a negative status is a signal's."""
        code, signal = (status, None) if status >= 0 else (None, -status)
        self.exit = self.exit or Exited(pid=self.pid, exit_code=code, signal=signal, cpu_s=0.0, peak_rss_bytes=0)


class KeptProcess:
    """Runs tasks one after another in a process that keeps its CUDA context. A context manager.

    Attributes:
        starts: Processes started so far: each pays for torch, a context and cuDNN once.
    """

    def __init__(self) -> None:
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._task: KeptTask | None = None
        self._partial = b""
        self._began_s = time.time()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process

    def __enter__(self) -> "KeptProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._log.close()

    def start(self, task: Task) -> KeptTask:
        """Begin a task, in a new process where there is none."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._spawn()
        assert self._process is not None
        self._task = KeptTask(self._process, self._log)
        write_line(self._process, msgspec.json.encode(task))
        return self._task

    def poll(self, timeout_s: float) -> None:
        """Wait until anything is heard, at most `timeout_s`."""
        process, task = self._process, self._task
        if process is None or task is None or process.stdout is None:
            return
        readable, _, _ = select.select([process.stdout], [], [], max(0.0, timeout_s))
        content = os.read(process.stdout.fileno(), 1 << 16) if readable else b""
        if readable and not content:
            task.end(process.wait(END_LIMIT_S))
            return
        *lines, self._partial = (self._partial + content).split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                task.hear(msgspec.json.decode(line, type=Event))

    def release(self, task: KeptTask) -> None:
        """Leave a task; one that is not over is ended together with its process."""
        if not task.is_over:
            self.close()
        self._task = None

    def close(self) -> None:
        """End the process and whatever it started. Harmless where there is none."""
        process, self._process, self._partial = self._process, None, b""
        if process is None:
            return
        end_group(process.pid)
        process.wait()
        wait_for_end(process.pid, END_LIMIT_S)
        sweep_shared_memory(process.pid, self._began_s)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _spawn(self) -> None:
        self.starts += 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_trials"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            start_new_session=True,
        )


def write_line(process: "subprocess.Popen[bytes]", content: bytes) -> None:
    """Send one line; a process that has ended hears nothing."""
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.write(content + b"\n")
            process.stdin.flush()
