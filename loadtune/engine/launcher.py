"""How does the parent get a trial process, hear from it, and get rid of it?

The parent's side of the zygote: it sends requests and descriptors, collects events and exits, and knows nothing of
what a trial means. All of it runs in the caller's thread.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TypeVar

import msgspec

from loadtune.engine.leftovers import end_group, sweep_shared_memory, wait_for_end
from loadtune.errors import EngineError
from loadtune.records.messages import Event, Exited, Ready, Start, Started, Task, ZygoteReply

READY_LIMIT_S = 120.0
"""Longest import of torch and torchvision. On a cold network file system it takes a minute; longer is a hang."""
START_LIMIT_S = 20.0
"""Longest answer to a fork request. The zygote does nothing else, so silence means that it died or is stopped."""
END_LIMIT_S = 5.0
"""Longest wait for killed processes to be gone. One in an uninterruptible read of a dead file server stays longer."""
LOG_TAIL_BYTES = 4000
"""Last part of a trial's output kept with a failure: a traceback through torch takes about 3 kB."""

_Reply = TypeVar("_Reply", Ready, Started)
_ENTRY = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from loadtune.engine.zygote import main
main(int(sys.argv[2]), sys.argv[3])
"""
"""The parent's own module path, and nothing from the current folder that the parent would not find either."""


class TrialProcess:
    """One forked process and its process group.

    Attributes:
        pid: Its process id, and that of its group.
        inbox: Events not yet taken, oldest first.
        exit: How it ended; None while it runs.
    """

    def __init__(self, pid: int, events: int, control: int, log_path: Path) -> None:
        self.pid = pid
        self.inbox: deque[Event] = deque()
        self.exit: Exited | None = None
        self.started_s = time.time()
        self._events = events
        self._control = control
        self._log_path = log_path
        self._partial = b""

    @property
    def events_fd(self) -> int:
        """The pipe's read end; -1 once the other end is closed."""
        return self._events

    def read_events(self) -> None:
        """Move what the pipe holds into the inbox. A line that is no event is dropped: user code found the pipe."""
        while self._events >= 0:
            try:
                content = os.read(self._events, 1 << 16)
            except BlockingIOError:
                return
            if not content:
                os.close(self._events)
                self._events = -1
                return
            *lines, self._partial = (self._partial + content).split(b"\n")
            for line in lines:
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    self.inbox.append(msgspec.json.decode(line, type=Event))

    def go_on(self) -> None:
        """Let the process pass the point at which it waits for the parent."""
        with contextlib.suppress(OSError):
            os.write(self._control, b"\n")

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the process and all its workers; harmless once they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def log_tail(self) -> str:
        """Return the last lines that the process and its workers printed."""
        with contextlib.suppress(OSError), self._log_path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
        return ""

    def close(self) -> None:
        """Kill whatever is left of the group and sweep its shared memory; calling it twice is harmless."""
        end_group(self.pid)
        wait_for_end(self.pid, END_LIMIT_S)
        sweep_shared_memory(self.pid, self.started_s)
        for descriptor in (self._events, self._control):
            if descriptor >= 0:
                os.close(descriptor)
        self._events = self._control = -1


class Launcher:
    """Starts the zygote at once and in the background; a context manager that leaves nothing behind.

    Args:
        cores: Cores that every trial is held to; None: all that this process may use.

    Attributes:
        groups: Process group of every process started so far, those that ended among them.
    """

    def __init__(self, cores: int | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="loadtune-")
        self._log_path = Path(self._folder.name) / "zygote.log"
        self._connection, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-c", _ENTRY, json.dumps(sys.path), str(far_end.fileno()), self._folder.name]
        with self._log_path.open("wb") as log, far_end:
            self._zygote = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(far_end.fileno(),),
                start_new_session=True,  # Ctrl-C is for the parent, which ends what runs in its own order
            )
        if cores is not None:
            mine = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self._zygote.pid, mine[: max(1, cores)])  # its forks inherit it
        self._alive: dict[int, TrialProcess] = {}
        self._replies: deque[Ready | Started] = deque()
        self._count = 0
        self.groups: list[int] = []
        self._unanswered = 0
        self.import_s: float | None = None

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def wait_until_ready(self) -> None:
        """Wait for torch to be imported.

        Raises:
            EngineError: The zygote died, or took over two minutes.
        """
        if self.import_s is None:
            self.import_s = self._wait_for(Ready, READY_LIMIT_S).import_s

    def start(self, task: Task) -> TrialProcess:
        """Fork a process for the task.

        Raises:
            EngineError: The zygote is gone or does not answer.
        """
        self.wait_until_ready()
        self._end_unwanted()
        self._count += 1
        log_path = Path(self._folder.name) / f"trial-{self._count}.log"
        events_read, events_write = os.pipe()
        control_read, control_write = os.pipe()
        os.set_blocking(events_read, False)
        with log_path.open("ab") as log:
            try:
                far_ends = [events_write, control_read, log.fileno()]
                socket.send_fds(self._connection, [msgspec.json.encode(Start(task=task))], far_ends)
                self._unanswered += 1
                pid = self._wait_for(Started, START_LIMIT_S).pid
                self._unanswered -= 1
            except BaseException as error:  # an interrupt too: then the answer comes when nobody wants the process
                os.close(events_read)
                os.close(control_write)
                if isinstance(error, OSError):
                    raise self._death(str(error)) from error
                raise
            finally:
                os.close(events_write)
                os.close(control_read)
        process = TrialProcess(pid, events_read, control_write, log_path)
        self._alive[pid] = process
        self.groups.append(pid)
        return process

    def poll(self, timeout_s: float) -> None:
        """Wait until anything is heard, at most `timeout_s`, and file it with its process.

        Raises:
            EngineError: The zygote is gone.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            for process in self._alive.values():
                if process.events_fd >= 0:
                    selector.register(process.events_fd, selectors.EVENT_READ, process)
            for key, _ in selector.select(max(0.0, timeout_s)):
                if key.data is None:
                    self._take_reply()
                else:
                    key.data.read_events()

    def release(self, process: TrialProcess) -> None:
        """End a process, whatever it is doing, and forget it."""
        process.close()
        deadline_s = time.monotonic() + START_LIMIT_S
        while process.exit is None and time.monotonic() < deadline_s:
            self.poll(deadline_s - time.monotonic())
        self._alive.pop(process.pid, None)

    def close(self) -> None:
        """End every process, the zygote last."""
        for process in list(self._alive.values()):
            process.close()
        self._alive.clear()
        self._connection.close()  # the zygote's signal to end
        if self.import_s is None:  # it is still importing, and would hear of it only afterwards
            self._zygote.kill()
        try:
            self._zygote.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self._zygote.kill()
            self._zygote.wait()
        self._folder.cleanup()

    def _take_reply(self) -> None:
        content = b""
        with contextlib.suppress(ConnectionError):  # reset: it died with a request unread
            content = self._connection.recv(1 << 16)
        if not content:
            raise self._death("it ended")
        reply = msgspec.json.decode(content, type=ZygoteReply)
        if not isinstance(reply, Exited):
            self._replies.append(reply)
        elif reply.pid in self._alive:
            process = self._alive[reply.pid]
            process.read_events()  # what it said before it ended comes before the news that it did
            process.exit = reply

    def _wait_for(self, kind: type[_Reply], limit_s: float) -> _Reply:
        deadline_s = time.monotonic() + limit_s
        while True:
            for reply in self._replies:
                if isinstance(reply, kind):
                    self._replies.remove(reply)
                    return reply
            if time.monotonic() > deadline_s:
                raise self._death(f"no answer in {limit_s:g} s")
            self.poll(deadline_s - time.monotonic())

    def _end_unwanted(self) -> None:
        """End the processes of starts that were given up, so that the next answer is the next start's."""
        while self._unanswered:
            end_group(self._wait_for(Started, START_LIMIT_S).pid)
            self._unanswered -= 1

    def _death(self, reason: str) -> EngineError:
        text = self._log_path.read_text("utf-8", "replace").strip() if self._log_path.exists() else ""
        last = text.splitlines()[-1] if text else reason
        return EngineError(
            f"the trial server failed: {last}", "check that `python -c 'import torch, torchvision'` works"
        )
