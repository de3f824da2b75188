"""One side of a duel: a live process group that is started, let run for a slice, and stopped again."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from signal import SIGCONT, SIGSTOP
from typing import Literal

import msgspec

from loadtune.advice.budget import SIDE_WARM_UP_S
from loadtune.engine.failures import Ended, explain, explain_exit
from loadtune.engine.launcher import Launcher, TrialProcess
from loadtune.engine.leftovers import is_stopped
from loadtune.engine.limits import MemoryWatch, describe_excess
from loadtune.engine.runner import POLL_S
from loadtune.engine.slices import Slice
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.sampler import Sampler
from loadtune.records.measurement import Cause, Failure, TrialState
from loadtune.records.messages import DeviceInUse, Failed, Phase, SideTask, Sources, StepsDone
from loadtune.records.settings import TrialSpec

START_LIMIT_S = 15.0
"""A side may take so long to get warm even where the duel's own time is up by then: a first start is worth waiting."""
STOP_LIMIT_S = 2.0
"""Longest wait for a first stop to show. A process in an uninterruptible read stops when the read is done."""
LAST_STEP_LIMIT_S = 3.0
"""How long a side may run on after its last slice, or a slice's length, so that the step it cut is seen to end."""


@dataclass(slots=True, kw_only=True)
class Arena:
    """Where duels are held: everything but who fights and for how long."""

    launcher: Launcher
    sources: Sources
    memory_end_bytes: int
    foreign_limit_cores: float
    """Cores that others may take before a pair is flagged."""
    baseline_lacks: Literal["nothing", "stamps", "sampler"] = "nothing"
    """What the baseline runs without, so that the ratio is what it costs: the stamps and marks of a measured loop, or
    the readings from outside."""
    nvml: Nvml | None = None
    """Read as in a trial while the sampler's own cost is measured; duels do without."""


@dataclass(slots=True)
class Side:
    """One live process group and what it did."""

    process: TrialProcess
    started_s: float = field(default_factory=time.monotonic)
    warm_up: Slice | None = None
    """From the start until it was stopped; it does not count, but a step may begin in it."""
    rest: list[Slice] = field(default_factory=list)
    """Its turn after the last slice, in which the step ends that the slice cut."""
    finished_s: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    is_running: bool = False
    uuid: str | None = None
    failed: Failed | None = None

    def hear(self) -> None:
        """Take in what the process has said."""
        while self.process.inbox:
            event = self.process.inbox.popleft()
            if isinstance(event, StepsDone):
                self.finished_s += event.finished_s
                self.samples += event.samples
            elif isinstance(event, Phase) and event.name == "running":
                self.is_running = True
            elif isinstance(event, DeviceInUse):
                self.uuid = event.uuid
            elif isinstance(event, Failed):
                self.failed = event


class SideLostError(Exception):
    """A side ended by itself. Its only argument is the Failure."""


class FreezeForbiddenError(Exception):
    """The platform does not let a process be stopped; its text says how that showed."""


def start_side(arena: Arena, spec: TrialSpec, deadline_s: float, others: Sequence[Side]) -> Side:
    """Start a side, wait until its loader is warm, and stop it. Its memory and the others' are watched meanwhile."""
    brief = msgspec.structs.replace(spec.measure, warm_up_s=min(spec.measure.warm_up_s, SIDE_WARM_UP_S))
    spec = msgspec.structs.replace(spec, measure=brief)
    is_plain = arena.baseline_lacks == "stamps" and not others
    side = Side(arena.launcher.start(SideTask(spec=spec, sources=arena.sources, is_plain=is_plain)))
    limit_s = max(deadline_s, time.monotonic() + START_LIMIT_S)
    sampler = Sampler([each.process.pid for each in (*others, side)])
    sampler.start()
    memory = MemoryWatch(sampler, arena.memory_end_bytes)
    try:
        while not side.is_running:
            _listen(arena, side, until_s=limit_s)
            _watch_memory(memory)
        _freeze_first(side)
    except BaseException:
        arena.launcher.release(side.process)
        raise
    finally:
        sampler.stop()
    side.warm_up = Slice(side.started_s, time.monotonic())
    return side


def _freeze_first(side: Side) -> None:
    """Stop a side for the first time, and see that it does stop.

    Raises:
        FreezeForbiddenError: It may not be signalled, or goes on all the same, as in some sandboxes.
    """
    try:
        side.process.signal_group(SIGSTOP)
    except PermissionError as error:
        raise FreezeForbiddenError("processes may not be signalled here") from error
    until_s = time.monotonic() + STOP_LIMIT_S
    while not is_stopped(side.process.pid):
        if time.monotonic() > until_s:
            raise FreezeForbiddenError("a process that was told to stop went on")
        time.sleep(0.005)


def start_sampler(arena: Arena, sides: Sequence[Side]) -> Sampler:
    """Watch the sides from now on, and their GPU where the arena reads it."""
    sampler = Sampler([side.process.pid for side in sides], arena.nvml)
    uuids = [side.uuid for side in sides if side.uuid is not None]
    if arena.nvml is not None and uuids:
        sampler.use_gpu(uuids[0])
    sampler.start()
    return sampler


def run_slice(arena: Arena, side: Side, slice_s: float, memory: MemoryWatch) -> None:
    """Let a side run for one slice."""
    side.process.signal_group(SIGCONT)
    began_s = time.monotonic()
    while (left_s := began_s + slice_s - time.monotonic()) > 0:
        _listen(arena, side, min(POLL_S, left_s))
        _wake_newborn(side)
        _watch_memory(memory)
    side.process.signal_group(SIGSTOP)
    side.slices.append(Slice(began_s, time.monotonic()))


def _wake_newborn(side: Side) -> None:
    """Resume a worker that stayed stopped, by telling the whole group once more: those that run ignore it.

    A worker forked in the moment of the stop was seen to sleep through the next SIGCONT (Linux; over short
    epochs in up to a quarter of the slices): its loader waited for the rest of the slice, which counted a fifth of its
    samples.
    """
    side.process.signal_group(SIGCONT)


def _watch_memory(memory: MemoryWatch) -> None:
    """Give the duel up before the kernel picks a victim.

    Raises:
        SideLostError: The sides together are past the limit.
    """
    used = memory.excess()
    if used is not None:
        raise SideLostError(describe_excess(used, "")[1])


def finish_last_burst(arena: Arena, side: Side, burst_steps: int, slice_s: float) -> None:
    """Let a side run until the burst of steps that its last slice cut has ended, so that its pace is known.

    A burst is a part of a slice, so no longer than that is waited; without the end the slice does not count.
    """
    cut_s = side.slices[-1].ended_s if side.slices else 0.0
    side.process.signal_group(SIGCONT)
    began_s = time.monotonic()
    done_s = side.finished_s
    while not (len(done_s) >= burst_steps and done_s[-burst_steps] > cut_s) and (
        time.monotonic() < began_s + max(LAST_STEP_LIMIT_S, slice_s)
    ):
        _listen(arena, side)
        _wake_newborn(side)
    side.process.signal_group(SIGSTOP)
    side.rest.append(Slice(began_s, time.monotonic()))


def _listen(arena: Arena, side: Side, timeout_s: float = POLL_S, until_s: float = math.inf) -> None:
    """Take in what is said.

    Raises:
        SideLostError: This side failed or ended, or it is later than `until_s`.
    """
    arena.launcher.poll(timeout_s)
    side.hear()
    if time.monotonic() > until_s:
        late = "one side of the duel did not get its loader warm in time"
        raise SideLostError(Failure(cause=Cause.DEADLINE, message=late, log_tail=side.process.log_tail()))
    if side.failed is not None or side.process.exit is not None:
        ended = Ended(side.process.exit, oom_kills=0)
        tail = side.process.log_tail()
        state_and_failure: tuple[TrialState, Failure] = (
            explain_exit(ended, tail) if side.failed is None else explain(side.failed, ended, tail)
        )
        raise SideLostError(state_and_failure[1])
