"""How does a trial run where its objects cannot leave the caller's process? In a thread of it, one after the other.

It stands in for the launcher: the runner asks, polls and releases as ever. What a process of its own gives is missing:
a hang cannot be ended, and a crash takes the script with it. So this is the second choice, and the report says so.
"""

import importlib
import os
import resource
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from signal import Signals
from typing import Any

from loadtune.engine.failures import classify_exception
from loadtune.engine.launcher import LOG_TAIL_BYTES
from loadtune.errors import EngineError
from loadtune.records.messages import Event, Exited, Task

END_LIMIT_S = 30.0
"""Longest wait for a trial that was told to end. It hears of it with its next steps; user code that hangs never does,
and the script cannot go on beside it."""
PARENT_LIMIT_S = 5.0
"""Longest wait for the workers' memory to be read; past it the trial goes on without that reading."""
STAYS_HERE = "trials ran in this process, which cannot be stopped by turns"
"""Why there is no duel of live processes."""


class _EndedError(BaseException):
    """Ends a trial from within. No Exception, so that user code's own handlers let it pass."""


class HereTask:
    """One task in a thread of this process, with the face of a `TrialProcess`.

    Attributes:
        pid: This process, whose tree is what the sampler watches.
        inbox: Events not yet taken, oldest first.
        exit: How it ended; None while it runs.
        unrestored: Why what it trained is not as it was; None: it is.
    """

    def __init__(self, task: Task, here: "Here") -> None:
        self.pid = os.getpid()
        self.inbox: deque[Event] = deque()
        self.exit: Exited | None = None
        self._task, self._here = task, here
        self._log = ""
        self._is_ending = False
        self.unrestored: str | None = None
        self._may_go_on = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loadtune-trial", daemon=True)
        self._thread.start()

    def go_on(self) -> None:
        """Let the task pass the point at which it waits for the parent."""
        self._may_go_on.set()

    def signal_group(self, number: Signals) -> None:
        """Refuse to signal: the group is the caller's own."""
        raise PermissionError(f"{number.name} would meet the caller's own process")

    def log_tail(self) -> str:
        """Return the end of the traceback, if there was one; what is printed goes where the script's output goes."""
        return self._log[-LOG_TAIL_BYTES:].strip()

    def close(self) -> None:
        """Tell the task to end, and wait until it has put everything back.

        Raises:
            EngineError: It does not end, or what it trained could not be put back.
        """
        self._is_ending = True
        self._may_go_on.set()
        self._thread.join(END_LIMIT_S)
        if self._thread.is_alive():
            raise EngineError(
                f"a trial in this process did not end within {END_LIMIT_S:.0f} s of being told to",
                "your data set or step hangs; what it trains may not be as it was: start the script again",
            )
        if self.unrestored is not None:
            raise EngineError(
                f"what a trial in this process trained could not be put back: {self.unrestored}",
                "start the script again, and hand over a model= or a step that can be pickled",
            )

    def _tell(self, event: Event) -> None:
        if self._is_ending:
            raise _EndedError
        self._here.hear(self, event)

    def _run(self) -> None:
        began_s, code = time.monotonic(), 0
        # By name: nothing of the parent imports what trains, and torch is loaded by the script already.
        child = importlib.import_module("loadtune.engine.child")
        restoring = importlib.import_module("loadtune.workload.restoring")
        accelerators: list[Any] = []
        restores: list[Callable[[], None]] = []
        try:
            restores.append(restoring.keep(self._here.objects))
            self._here.hold_to_cores()
            child.do(
                self._task,
                child.Payload(self._here.objects),
                self._tell,
                accelerators.append,
                lambda: self._may_go_on.wait(PARENT_LIMIT_S),
                began_s,
            )
        except _EndedError:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises is data, never our traceback
            code = child.FAILED_EXIT_CODE
            self._log = traceback.format_exc()
            is_device_memory = any(each.is_out_of_memory(error) for each in accelerators)
            self._here.hear(self, classify_exception(error, is_device_memory=is_device_memory))
        finally:
            try:
                for restore in restores:
                    restore()
            except Exception as error:  # noqa: BLE001 - an object of the user's that cannot take its own state back
                self.unrestored = f"{type(error).__name__}: {error}"
            self._end(code)

    def _end(self, code: int) -> None:
        """Say that the task is over: whoever polls would wait for ever without."""
        self.exit = Exited(
            pid=self.pid,
            exit_code=code,
            signal=None,
            cpu_s=time.thread_time(),
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        self._here.wake()


class Here:
    """Runs tasks in this process, with the face of a `Launcher`.

    Args:
        objects: What the caller handed over, as it is.
        cores: Cores that a trial and its workers are held to; None: all that this process may use.
    """

    def __init__(self, objects: Mapping[str, Any], cores: int | None = None) -> None:
        self.objects = objects
        self._cores = cores
        self._news = threading.Condition()
        self._has_news = False
        self.groups: list[int] = []
        self.import_s = 0.0

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing to do: every task is released by who started it."""

    def wait_until_ready(self) -> None:
        """Return at once: the script has imported torch."""

    def start(self, task: Task) -> HereTask:
        """Begin a task."""
        return HereTask(task, self)

    def poll(self, timeout_s: float) -> None:
        """Wait until anything is heard, at most `timeout_s`."""
        with self._news:
            self._news.wait_for(lambda: self._has_news, max(0.0, timeout_s))
            self._has_news = False

    def release(self, process: HereTask) -> None:
        """End a task, whatever it is doing.

        Raises:
            EngineError: It does not end.
        """
        process.close()

    def hear(self, process: HereTask, event: Event) -> None:
        """File an event with its task."""
        process.inbox.append(event)
        self.wake()

    def wake(self) -> None:
        """End the waiting of `poll`."""
        with self._news:
            self._has_news = True
            self._news.notify_all()

    def hold_to_cores(self) -> None:
        """Hold the calling thread, and the workers that it will fork, to their share of the cores."""
        if self._cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: max(1, self._cores)])
