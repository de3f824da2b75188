"""Which of two settings is faster, and how surely? Both are started afresh and run by turns, slice by slice.

While one side's process group runs, the other is stopped (SIGSTOP), so that drift of the machine meets both alike.
Where two sides do not fit into memory together, fresh runs alternate instead (`abba`).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from signal import SIGCONT, SIGSTOP

import msgspec

from loadtune.advice.budget import DuelPlan
from loadtune.engine.failures import Ended, explain, explain_exit
from loadtune.engine.launcher import Launcher, TrialProcess
from loadtune.engine.limits import MemoryWatch, describe_excess
from loadtune.engine.runner import POLL_S
from loadtune.engine.slices import Share, Slice, share_out
from loadtune.monitor.sampler import Sampler
from loadtune.records.measurement import Cause, Duel, Failure, SlicePair, TrialState
from loadtune.records.messages import Failed, Phase, SideTask, Sources, StepsDone
from loadtune.records.resources import ResourceTrace
from loadtune.records.settings import TrialSpec
from loadtune.stats import DUEL_PAIRS_MIN

HEAD_S = 0.3
"""Dropped at the start of each slice: the frozen group's full queue, and what storage delivered meanwhile, drain."""
HEAD_SHARE_MAX = 0.4
"""Of a slice at most; a short slice with the whole head dropped would hold nothing."""
SIDE_WARM_UP_S = 2.0
"""Longest warm-up of a side, of device and loader each: the heads of its slices are dropped besides."""
START_LIMIT_S = 15.0
"""A side may take so long to get warm even where the duel's own time is up by then: a first start is worth waiting."""
LAST_STEP_LIMIT_S = 3.0
"""How long a side may run on after its last slice, so that the step which that slice cut is seen to end."""
STRIDE_SAMPLES = 100_003
"""How far apart in the sample order two starts begin where the page cache must not be warm for the second. A prime:
taken modulo the length of any data set it leads somewhere else each time."""

Report = Callable[[int, int], None]
"""Told after each pair: pairs done, pairs planned."""


@dataclass(slots=True)
class _Side:
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
    failed: Failed | None = None

    def hear(self) -> None:
        while self.process.inbox:
            event = self.process.inbox.popleft()
            if isinstance(event, StepsDone):
                self.finished_s += event.finished_s
                self.samples += event.samples
            elif isinstance(event, Phase) and event.name == "running":
                self.is_running = True
            elif isinstance(event, Failed):
                self.failed = event


class _SideLostError(Exception):
    """A side ended by itself. Its only argument is the Failure."""


class DuelInterruptedError(KeyboardInterrupt):
    """Ctrl-C in a duel; `duel` holds the pairs that were done."""

    def __init__(self, duel: Duel) -> None:
        super().__init__()
        self.duel = duel


@dataclass(slots=True, kw_only=True)
class Arena:
    """Where duels are held: everything but who fights and for how long."""

    launcher: Launcher
    sources: Sources
    memory_end_bytes: int
    foreign_limit_cores: float
    """Cores that others may take before a pair is flagged."""


def hold_duel(
    arena: Arena,
    baseline: TrialSpec,
    contender: TrialSpec,
    plan: DuelPlan,
    deadline_s: float,
    report: Report,
    *,
    head_s: float = HEAD_S,
) -> Duel:
    """Run both sides by turns and return the slice pairs; what was measured before a failure is kept.

    Args:
        arena: Processes, readings and limits.
        baseline: The side that ratios are over.
        contender: The other side.
        plan: Pairs, slices and restarts.
        deadline_s: time.monotonic() at which no further pair begins.
        report: Told of progress.
        head_s: Seconds dropped at the start of each slice, if the slice is long enough.
    """
    began_s = time.monotonic()
    head_s = min(head_s, HEAD_SHARE_MAX * plan.slice_s)
    pairs: list[SlicePair] = []
    failure: Failure | None = None
    notes: list[str] = []
    is_interrupted = False
    for restart in range(plan.restarts):
        started_s = time.monotonic()
        share = [pair * plan.restarts // plan.pairs for pair in range(plan.pairs)].count(restart)
        try:
            specs = (apart(baseline, 2 * restart), apart(contender, 2 * restart + 1))
            done, failure = _run_restart(arena, specs, plan, restart, share, head_s, deadline_s)
            pairs += done
        except KeyboardInterrupt:
            is_interrupted = True
            notes.append(f"Interrupted in start {restart + 1} of {plan.restarts}; its pairs are not in.")
            break
        if failure is not None:
            notes.append(f"A side was lost in start {restart + 1} of {plan.restarts}: {failure.message}")
            break
        report(len(pairs), plan.pairs)
        now_s = time.monotonic()
        start_s = now_s - started_s - 2 * plan.slice_s * len(done)
        if now_s + start_s + 2 * plan.slice_s > deadline_s and restart + 1 < plan.restarts:
            notes.append(f"Time was up after {restart + 1} of {plan.restarts} starts.")
            break
    duel = Duel(
        baseline=baseline.settings,
        contender=contender.settings,
        method="frozen",
        pairs=tuple(pairs),
        slice_s=plan.slice_s,
        head_s=head_s,
        seconds_spent=time.monotonic() - began_s,
        notes=tuple(notes),
        failure=failure if len(pairs) < DUEL_PAIRS_MIN else None,
    )
    if is_interrupted:
        raise DuelInterruptedError(duel)
    return duel


def _run_restart(
    arena: Arena,
    specs: tuple[TrialSpec, TrialSpec],
    plan: DuelPlan,
    restart: int,
    count: int,
    head_s: float,
    deadline_s: float,
) -> tuple[list[SlicePair], Failure | None]:
    """Start both sides, alternate `count` pairs of slices, end both; where one is lost, return why beside the pairs."""
    failure: Failure | None = None
    sides: list[_Side] = []
    sampler: Sampler | None = None
    firsts: list[bool] = []
    try:
        for spec in specs:
            sides.append(_start_side(arena, spec, deadline_s, sides))
        sampler = Sampler([side.process.pid for side in sides])
        sampler.start()
        memory = MemoryWatch(sampler, arena.memory_end_bytes)
        for number in range(count):
            if firsts and time.monotonic() + 2 * plan.slice_s > deadline_s:
                break
            firsts.append((number + restart) % 2 == 0)  # A B, B A: what drifts evenly meets both alike
            for side in sides if firsts[-1] else reversed(sides):
                _run_slice(arena, side, plan.slice_s, memory)
        for side in sides:
            _finish_last_step(arena, side)
    except _SideLostError as error:
        failure = error.args[0]
    finally:
        trace = sampler.stop() if sampler is not None else None
        for side in sides:
            side.process.signal_group(SIGCONT)
            arena.launcher.release(side.process)
    return _pair_up(sides, firsts, restart, head_s, trace, arena.foreign_limit_cores), failure


def _start_side(arena: Arena, spec: TrialSpec, deadline_s: float, others: Sequence[_Side]) -> _Side:
    """Start a side, wait until its loader is warm, and stop it. Its memory and the others' are watched meanwhile."""
    brief = msgspec.structs.replace(spec.measure, warm_up_s=min(spec.measure.warm_up_s, SIDE_WARM_UP_S))
    spec = msgspec.structs.replace(spec, measure=brief)
    side = _Side(arena.launcher.start(SideTask(spec=spec, sources=arena.sources)))
    limit_s = max(deadline_s, time.monotonic() + START_LIMIT_S)
    sampler = Sampler([each.process.pid for each in (*others, side)])
    sampler.start()
    memory = MemoryWatch(sampler, arena.memory_end_bytes)
    try:
        while not side.is_running:
            _listen(arena, side, until_s=limit_s)
            _watch_memory(memory)
    except BaseException:
        arena.launcher.release(side.process)
        raise
    finally:
        sampler.stop()
    side.process.signal_group(SIGSTOP)
    side.warm_up = Slice(side.started_s, time.monotonic())
    return side


def _run_slice(arena: Arena, side: _Side, slice_s: float, memory: MemoryWatch) -> None:
    """Let a side run for one slice."""
    side.process.signal_group(SIGCONT)
    began_s = time.monotonic()
    while (left_s := began_s + slice_s - time.monotonic()) > 0:
        _listen(arena, side, min(POLL_S, left_s))
        _watch_memory(memory)
    side.process.signal_group(SIGSTOP)
    side.slices.append(Slice(began_s, time.monotonic()))


def _watch_memory(memory: MemoryWatch) -> None:
    """Give the duel up before the kernel picks a victim.

    Raises:
        _SideLostError: The sides together are past the limit.
    """
    used = memory.excess()
    if used is not None:
        raise _SideLostError(describe_excess(used, "")[1])


def _finish_last_step(arena: Arena, side: _Side) -> None:
    """Let a side run until the step that its last slice cut has ended."""
    cut_s = side.slices[-1].ended_s if side.slices else 0.0
    side.process.signal_group(SIGCONT)
    began_s = time.monotonic()
    while not (side.finished_s and side.finished_s[-1] > cut_s) and time.monotonic() < began_s + LAST_STEP_LIMIT_S:
        _listen(arena, side)
    side.process.signal_group(SIGSTOP)
    side.rest.append(Slice(began_s, time.monotonic()))


def _listen(arena: Arena, side: _Side, timeout_s: float = POLL_S, until_s: float = math.inf) -> None:
    """Take in what is said.

    Raises:
        _SideLostError: This side failed or ended, or it is later than `until_s`.
    """
    arena.launcher.poll(timeout_s)
    side.hear()
    if time.monotonic() > until_s:
        late = "one side of the duel did not get its loader warm in time"
        raise _SideLostError(Failure(cause=Cause.DEADLINE, message=late, log_tail=side.process.log_tail()))
    if side.failed is not None or side.process.exit is not None:
        ended = Ended(side.process.exit, oom_kills=0)
        tail = side.process.log_tail()
        state_and_failure: tuple[TrialState, Failure] = (
            explain_exit(ended, tail) if side.failed is None else explain(side.failed, ended, tail)
        )
        raise _SideLostError(state_and_failure[1])


def _pair_up(
    sides: Sequence[_Side],
    firsts: Sequence[bool],
    restart: int,
    head_s: float,
    trace: ResourceTrace | None,
    foreign_limit_cores: float,
) -> list[SlicePair]:
    """Return the pairs whose both slices hold something to count."""
    shares = [_share_out(side, head_s) for side in sides]
    pairs = []
    for place, baseline_first in enumerate(firsts):
        ours: tuple[Share | None, ...] = tuple(share[place] if place < len(share) else None for share in shares)
        if ours[0] is None or ours[1] is None:
            continue
        foreign = _foreign_cores(trace, [side.slices[place] for side in sides])
        is_disturbed = foreign is not None and foreign > foreign_limit_cores
        pairs.append(
            SlicePair(
                baseline_samples=ours[0].samples,
                baseline_s=ours[0].active_s,
                contender_samples=ours[1].samples,
                contender_s=ours[1].active_s,
                baseline_first=baseline_first,
                restart=restart,
                foreign_cores=foreign,
                flags=("foreign load",) if is_disturbed else (),
            )
        )
    return pairs


def _share_out(side: _Side, head_s: float) -> list[Share | None]:
    """Return what each slice counts. The turns before and after are known too: what was stopped in them was no time."""
    before = [] if side.warm_up is None else [side.warm_up]
    shares = share_out(side.finished_s, side.samples, [*before, *side.slices, *side.rest], head_s)
    return shares[len(before) : len(before) + len(side.slices)]


def _foreign_cores(trace: ResourceTrace | None, slices: Sequence[Slice]) -> float | None:
    """Return the mean of what others used during these slices."""
    if trace is None:
        return None
    zero_s = trace.started_monotonic_s
    known = [
        sample.foreign_cores
        for sample in trace.host
        if sample.foreign_cores is not None
        and any(each.started_s <= zero_s + sample.at_s <= each.ended_s for each in slices)
    ]
    return sum(known) / len(known) if known else None


def apart(spec: TrialSpec, start: int) -> TrialSpec:
    """Return the spec of one of several starts: on fresh samples each, unless the page cache is warm for all."""
    if spec.cache == "warm":
        return spec
    return msgspec.structs.replace(spec, first_sample=spec.first_sample + start * STRIDE_SAMPLES)
