"""How does a plain loop take part in a duel? As a process that looks like a trial's, beside a launcher of real ones."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from benchmarks.workloads import WORKLOADS
from loadtune.engine.launcher import Launcher, TrialProcess
from loadtune.records.messages import Event, Exited, Phase, SideTask, StepsDone, Task

ROOT = Path(__file__).resolve().parent.parent
PAIR = struct.Struct("dd")
WARM_STEPS = 10
"""Steps, or two from each worker, before the loop counts as running."""
LOOK_S = 0.02
"""How often its stamps are read while others are waited for."""


class PlainProcess:
    """A plain loop in a process group of its own, with what `hold_duel` asks of a trial process."""

    def __init__(self, workload: str, num_workers: int) -> None:
        command = [sys.executable, "-m", "benchmarks.plain_loop", workload, str(num_workers)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        self.pid = self._process.pid
        self.inbox: deque[Event] = deque()
        self.exit: Exited | None = None
        self.taken_s: list[float] = []
        self.finished_s: list[float] = []
        self._batch_size = WORKLOADS[workload].batch_size
        self._warm_steps = max(WARM_STEPS, 2 * num_workers)
        self._rest = b""

    def read(self) -> None:
        """Turn new stamps into events."""
        while content := self._read_some():
            content = self._rest + content
            whole = len(content) // PAIR.size * PAIR.size
            self._rest = content[whole:]
            stamps = list(PAIR.iter_unpack(content[:whole]))
            if not stamps:
                continue
            before = len(self.finished_s)
            self.taken_s += [taken_s for taken_s, _ in stamps]
            self.finished_s += [done_s for _, done_s in stamps]
            ends = tuple(done_s for _, done_s in stamps)
            self.inbox.append(StepsDone(finished_s=ends, samples=(self._batch_size,) * len(ends)))
            if before < self._warm_steps <= len(self.finished_s):
                self.inbox.append(Phase(name="running", at_s=self.finished_s[-1]))
        if self._process.poll() is not None and self.exit is None:
            self.exit = Exited(
                pid=self.pid, exit_code=self._process.returncode, signal=None, cpu_s=0.0, peak_rss_bytes=0
            )

    def _read_some(self) -> bytes:
        try:
            return os.read(self._stdout.fileno(), 1 << 16)
        except BlockingIOError:
            return b""

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the loop and its workers; harmless once they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def log_tail(self) -> str:
        """Return nothing: it writes to this terminal."""
        return ""

    def close(self) -> None:
        """End it and its workers."""
        for number in (signal.SIGKILL, signal.SIGCONT):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                break
        self._process.wait()
        self._stdout.close()


class MixedLauncher:
    """A launcher whose plain sides are plain loops; everything else goes to the real one.

    Args:
        launcher: The real one.
        workload: Which workload plain sides train.
    """

    def __init__(self, launcher: Launcher, workload: str) -> None:
        self._launcher = launcher
        self._workload = workload
        self._plain: list[PlainProcess] = []

    def start(self, task: Task) -> PlainProcess | TrialProcess:
        """Start a side."""
        if not (isinstance(task, SideTask) and task.is_plain):
            return self._launcher.start(task)
        self._plain.append(PlainProcess(self._workload, task.spec.settings.num_workers))
        return self._plain[-1]

    def poll(self, timeout_s: float) -> None:
        """Wait a little, and read what was said."""
        until_s = time.monotonic() + timeout_s
        while True:
            self._launcher.poll(min(LOOK_S, max(0.0, until_s - time.monotonic())))
            for process in self._plain:
                process.read()
            if time.monotonic() >= until_s or any(process.inbox for process in self._plain):
                return

    def release(self, process: PlainProcess | TrialProcess) -> None:
        """End a side."""
        if isinstance(process, TrialProcess):
            self._launcher.release(process)
            return
        process.close()
        self._plain.remove(process)
