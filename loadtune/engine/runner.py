"""What comes of one TrialSpec? One TrialResult, whatever happens to the process that runs it."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from loadtune.advice.feasibility import Obstacle
from loadtune.advice.search import Leg
from loadtune.engine.failures import Ended, explain, explain_exit
from loadtune.engine.limits import MemoryWatch, describe_excess, judge_silence
from loadtune.errors import DatasetError, TargetError
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.sampler import Sampler, with_replayed_gpu
from loadtune.records.measurement import Cause, Failure, Measurement, TrialResult, TrialState
from loadtune.records.messages import (
    CacheRead,
    CacheTask,
    DeviceInUse,
    Event,
    Exited,
    Failed,
    Inspected,
    InspectTask,
    Measured,
    Phase,
    Sources,
    Task,
    TrialTask,
)
from loadtune.records.resources import HostLimits, ResourceTrace
from loadtune.records.settings import TrialSpec
from loadtune.stats import spread_ratio

POLL_S = 0.1
"""How often limits are looked at when nothing is heard. A tree grows by at most about a gigabyte in this time."""
MEMORY_END_RATIO = 0.9
"""Share of the tightest memory limit at which a trial is ended: past it the kernel picks the victim."""
OOM_GROUP_END_RATIO = 0.8
"""The same where one kernel kill takes the whole container (memory.oom.group), the results with it."""
PHASE_WORDS = {
    "asked": "while data and model were built",
    "built": "while the device warmed up or the first batch was made",
    "device_warm": "while the first batch was made",
    "first_batch": "while the loader warmed up",
    "measuring": "while measuring",
    "measured": "while ending",
}
"""What a trial was doing after each mark."""
LATE_S = 5.0
"""How long past its own cap a trial may take to hand in its result before it counts as stuck."""
INSPECT_LIMIT_S = 120.0
"""Longest look at the data; importing the user's module has its own, shorter limit within."""


_Answer = TypeVar("_Answer", Inspected, CacheRead)


class Running(Protocol):
    """A task under way: a process (`launcher`) or a thread (`here`)."""

    pid: int
    inbox: deque[Event]
    exit: Exited | None

    def go_on(self) -> None:
        """Let it pass the point at which it waits for the parent."""

    def log_tail(self) -> str:
        """Return the last of what it printed."""


class Launching(Protocol):
    """Starts tasks and hears from them."""

    def start(self, task: Task) -> Running:
        """Begin a task."""

    def poll(self, timeout_s: float) -> None:
        """Wait until anything is heard."""

    def release(self, process: Any) -> None:
        """End a task that this one started, whatever it is doing."""


@dataclass(slots=True)
class _Heard:
    """What one trial said so far."""

    measurement: Measurement | None = None
    failed: Failed | None = None
    measuring_s: float | None = None
    measured_s: float | None = None
    requested_s: float = 0.0
    last_s: float = 0.0
    phase: str = "asked"


class Runner:
    """Runs trials one after another, each watched from outside.

    Args:
        launcher: Gives processes, or runs trials in this one.
        nvml: The GPU's readings.
        limits: What the trials may use.
        sources: Where the trials find data.
        began_s: time.monotonic() when the probe began.
        own_bytes: Memory that others hold now and that counts as the trials': the script's own, where they run in it.
    """

    def __init__(
        self,
        launcher: Launching,
        nvml: Nvml,
        limits: HostLimits,
        sources: Sources,
        began_s: float,
        own_bytes: int = 0,
    ) -> None:
        self._launcher = launcher
        self._nvml = nvml
        self._sources = sources
        self._began_s = began_s
        share = OOM_GROUP_END_RATIO if limits.memory_oom_group else MEMORY_END_RATIO
        used = limits.memory_limit_bytes - limits.memory_available_bytes
        self.memory_end_bytes = int(share * limits.memory_limit_bytes) - used + own_bytes

    def run(self, spec: TrialSpec, leg: Leg, number: int, deadline_s: float) -> TrialResult:
        """Run one trial.

        Args:
            spec: The trial.
            leg: What the search asked for, of which role and round are kept.
            number: Its place in the probe.
            deadline_s: time.monotonic() at which it is ended, whatever it is doing.
        """
        requested_s = time.monotonic()
        process = self._launcher.start(TrialTask(spec=spec, sources=self._sources, requested_s=requested_s))
        sampler = Sampler([process.pid], self._nvml)
        sampler.start()
        memory = MemoryWatch(sampler, self.memory_end_bytes)
        heard = _Heard(requested_s=requested_s, last_s=requested_s)
        ended: tuple[TrialState, Failure] | None = None
        try:
            while process.exit is None and ended is None and heard.measurement is None:
                self._launcher.poll(POLL_S)
                self._hear(process, sampler, heard)
                ended = self._overstepped(spec, process, memory, heard, deadline_s)
        finally:
            trace = sampler.stop()
            self._launcher.release(process)
        self._hear(process, None, heard)
        if heard.measurement is None and ended is None:
            killed = Ended(process.exit, trace.oom_kills or 0)
            log_tail = process.log_tail()
            ended = explain_exit(killed, log_tail) if heard.failed is None else explain(heard.failed, killed, log_tail)
        return self._result(spec, leg, number, requested_s, heard, trace, ended)

    def skip(self, spec: TrialSpec, leg: Leg, number: int) -> TrialResult:
        """Return the result of a trial that `leg.obstacle` forbids."""
        obstacle = leg.obstacle or Obstacle(Cause.BUDGET, "not run")
        failure = Failure(cause=obstacle.cause, message=obstacle.arithmetic)
        return self._result(spec, leg, number, time.monotonic(), _Heard(), None, (TrialState.SKIPPED, failure))

    def interrupted(self, spec: TrialSpec, leg: Leg, number: int) -> TrialResult:
        """Return the result of a trial that the user ended."""
        failure = Failure(cause=Cause.INTERRUPT, message="ended by Ctrl-C")
        return self._result(spec, leg, number, time.monotonic(), _Heard(), None, (TrialState.INTERRUPTED, failure))

    def inspect(self, task: InspectTask, limit_s: float = INSPECT_LIMIT_S) -> Inspected:
        """Look at the data and the device in a process of its own, within a time limit.

        Raises:
            TargetError: The user's data set or model cannot be used.
            DatasetError: The data set cannot be read.
        """
        return self._ask(task, Inspected, limit_s)

    def read_files(self, task: CacheTask) -> CacheRead:
        """Read the files once, so that every trial finds the same page cache."""
        return self._ask(task, CacheRead, task.limit_s + LATE_S)

    def _ask(self, task: InspectTask | CacheTask, kind: type[_Answer], limit_s: float) -> _Answer:
        process = self._launcher.start(task)
        deadline_s = time.monotonic() + limit_s
        try:
            while True:
                self._launcher.poll(POLL_S)
                for event in process.inbox:
                    if isinstance(event, kind):
                        return event
                    if isinstance(event, Failed):
                        hint = event.hint or "see the message"
                        kind_of_error = DatasetError if event.cause is Cause.BAD_SAMPLES else TargetError
                        raise kind_of_error(event.message, hint)
                if process.exit is not None or time.monotonic() > deadline_s:
                    told = "took too long" if process.exit is None else "ended without a word"
                    last = process.log_tail().splitlines()
                    raise TargetError(
                        f"looking at the data {told}{': ' + last[-1] if last else ''}",
                        "try the data set alone: python -c 'for one in dataset: pass'",
                    )
        finally:
            self._launcher.release(process)

    def _hear(self, process: Running, sampler: Sampler | None, heard: _Heard) -> None:
        while process.inbox:
            event = process.inbox.popleft()
            heard.last_s = time.monotonic()
            if isinstance(event, Measured):
                heard.measurement = event.measurement
            elif isinstance(event, Failed):
                heard.failed = event
            elif isinstance(event, DeviceInUse) and event.uuid is not None and sampler is not None:
                sampler.use_gpu(event.uuid)
            elif isinstance(event, Phase):
                heard.phase = event.name
            if isinstance(event, Phase) and event.name == "first_batch" and sampler is not None:
                sampler.read_first_pss()  # the loader still warms up
            if isinstance(event, Phase) and event.name == "measuring":
                heard.measuring_s = event.at_s
            elif isinstance(event, Phase) and event.name == "measured":
                heard.measured_s = event.at_s
                if sampler is not None:
                    sampler.mark_measuring(heard.measuring_s or event.at_s, event.at_s)
                    sampler.read_pss()
                process.go_on()

    def _overstepped(
        self, spec: TrialSpec, process: Running, memory: MemoryWatch, heard: _Heard, deadline_s: float
    ) -> tuple[TrialState, Failure] | None:
        """Return why a trial must be ended now, or None."""
        used = memory.excess()
        if used is not None:
            return describe_excess(used, process.log_tail())
        return judge_silence(
            requested_s=heard.requested_s,
            last_s=heard.last_s,
            phase=PHASE_WORDS.get(heard.phase, ""),
            silence_s=spec.measure.silence_s,
            deadline_s=deadline_s,
            log_tail=process.log_tail,
        )

    def _result(
        self,
        spec: TrialSpec,
        leg: Leg,
        number: int,
        requested_s: float,
        heard: _Heard,
        trace: ResourceTrace | None,
        ended: tuple[TrialState, Failure] | None,
    ) -> TrialResult:
        measurement = heard.measurement if ended is None else None
        if measurement is not None and trace is not None and measurement.busy_spans:
            measuring = (heard.measuring_s or requested_s, heard.measured_s or time.monotonic())
            trace = with_replayed_gpu(trace, measurement.busy_spans, measuring)
        state, failure = (TrialState.COMPLETE, None) if ended is None else ended
        return TrialResult(
            number=number,
            role=leg.role,
            round=leg.round,
            spec_key=spec.key,
            state=state,
            settings=spec.settings,
            feed=spec.feed,
            consume=spec.consume,
            cache=spec.cache,
            threads=spec.threads,
            rate_per_s=None if measurement is None else measurement.rate_per_s,
            spread_ratio=None if measurement is None else spread_ratio(measurement.windows),
            started_s=requested_s - self._began_s,
            seconds_spent=time.monotonic() - requested_s,
            measurement=measurement,
            trace=trace,
            failure=failure,
        )
