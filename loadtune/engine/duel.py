"""Which of two settings is faster, and how surely? Both are started afresh and run by turns, slice by slice.

While one side's process group runs, the other is stopped (SIGSTOP), so that drift of the machine meets both alike.
Where two sides do not fit into memory together, fresh runs alternate instead (`abba`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from signal import SIGCONT

import msgspec

from loadtune.advice.budget import DuelPlan
from loadtune.engine.limits import MemoryWatch
from loadtune.engine.sides import (
    Arena,
    Side,
    SideLostError,
    finish_last_burst,
    run_slice,
    start_sampler,
    start_side,
)
from loadtune.engine.slices import Share, Slice, share_out
from loadtune.monitor.sampler import Sampler
from loadtune.records.measurement import Duel, Failure, SlicePair
from loadtune.records.resources import ResourceTrace
from loadtune.records.settings import TrialSpec
from loadtune.stats import DUEL_PAIRS_MIN

STRIDE_SAMPLES = 100_003
"""How far apart in the sample order two starts begin. A prime: taken modulo the length of any data set it leads
somewhere else each time."""

LATE_RATIO = 0.05
"""Of a duel's seconds, by which a pair may end late that a verdict still needs. 0 threw away a duel of 77 s on an H200,
whose starts had taken longer than planned, for want of its eighth pair; more breaks the promise of the budget."""

Report = Callable[[int, int], None]
"""Told after each pair: pairs done, pairs planned."""


class DuelInterruptedError(KeyboardInterrupt):
    """Ctrl-C in a duel; `duel` holds the pairs that were done."""

    def __init__(self, duel: Duel) -> None:
        super().__init__()
        self.duel = duel


def hold_duel(
    arena: Arena,
    baseline: TrialSpec,
    contender: TrialSpec,
    plan: DuelPlan,
    deadline_s: float,
    report: Report,
) -> Duel:
    """Run both sides by turns and return the slice pairs; what was measured before a failure is kept.

    Args:
        arena: Processes, readings and limits.
        baseline: The side that ratios are over.
        contender: The other side.
        plan: Pairs, slices, their heads and restarts.
        deadline_s: time.monotonic() at which the last pair has ended; by `LATE_RATIO` later where a verdict needs it.
        report: Told of progress.
    """
    began_s, course = time.monotonic(), _Course(notes=[] if plan.note is None else [plan.note])
    is_interrupted = False
    try:
        late_s = LATE_RATIO * max(0.0, deadline_s - began_s) if plan.pairs >= DUEL_PAIRS_MIN else 0.0
        time_left = _TimeLeft(deadline_s, late_s)
        _run_starts(arena, (baseline, contender), plan, time_left, report, course)
    except KeyboardInterrupt:
        is_interrupted = True
        course.notes.append("Interrupted; the pairs of the start that was under way are not in.")
    duel = Duel(
        baseline=baseline.settings,
        contender=contender.settings,
        epoch_batches=baseline.epoch_batches,
        method="frozen",
        pairs=tuple(course.pairs),
        slice_s=plan.slice_s,
        head_s=plan.dropped_s,
        burst_steps=plan.burst_steps,
        seconds_spent=time.monotonic() - began_s,
        notes=tuple(course.notes),
        failure=course.failure if len(course.pairs) < DUEL_PAIRS_MIN else None,
    )
    if is_interrupted:
        raise DuelInterruptedError(duel)
    return duel


@dataclass(slots=True)
class _Course:
    """What a duel under way has come to."""

    pairs: list[SlicePair] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class _TimeLeft:
    """Until when a duel may run: to its deadline, and later where that gives it the pairs that a verdict needs."""

    deadline_s: float
    late_s: float

    def holds(self, pair_s: float, done: int, before_s: float = 0.0) -> bool:
        """Say whether another pair may begin.

        Args:
            pair_s: Seconds of a pair.
            done: Pairs so far.
            before_s: Seconds until it can begin.
        """
        left_s = self.deadline_s - time.monotonic() - before_s
        missing = DUEL_PAIRS_MIN - done
        return pair_s <= left_s or 0 < missing * pair_s <= left_s + self.late_s


def _run_starts(
    arena: Arena,
    sides: tuple[TrialSpec, TrialSpec],
    plan: DuelPlan,
    time_left: _TimeLeft,
    report: Report,
    course: _Course,
) -> None:
    """Start both sides again and again until the pairs are there, a side is lost, or time is up."""
    for restart in range(plan.restarts):
        started_s = time.monotonic()
        share = [pair * plan.restarts // plan.pairs for pair in range(plan.pairs)].count(restart)
        specs = (apart(sides[0], restart, 0), apart(sides[1], restart, 1))
        done, course.failure = _run_restart(arena, specs, plan, (restart, share, len(course.pairs)), time_left)
        course.pairs += done
        which = f"start {restart + 1} of {plan.restarts}"
        if course.failure is not None:
            course.notes.append(f"A side was lost in {which}: {course.failure.message}")
            return
        report(len(course.pairs), plan.pairs)
        start_s = time.monotonic() - started_s - 2 * plan.slice_s * len(done)
        if not time_left.holds(2 * plan.slice_s, len(course.pairs), start_s) and restart + 1 < plan.restarts:
            course.notes.append(f"Time was up after {restart + 1} of {plan.restarts} starts.")
            return


def _run_restart(
    arena: Arena,
    specs: tuple[TrialSpec, TrialSpec],
    plan: DuelPlan,
    place: tuple[int, int, int],
    time_left: _TimeLeft,
) -> tuple[list[SlicePair], Failure | None]:
    """Start both sides, alternate pairs of slices, end both; where one is lost, return why beside the pairs.

    Args:
        arena: Processes, readings and limits.
        specs: Of both sides.
        plan: Of the duel.
        place: Number of this start, the pairs it is to run, and the pairs done before it.
        time_left: Of the duel.
    """
    restart, count, before = place
    failure: Failure | None = None
    sides: list[Side] = []
    sampler: Sampler | None = None
    firsts: list[bool] = []
    try:
        for spec in specs:
            sides.append(start_side(arena, spec, time_left.deadline_s, sides))
        sampler = start_sampler(arena, sides)
        memory = MemoryWatch(sampler, arena.memory_end_bytes)
        for number in range(count):
            if firsts and not time_left.holds(2 * plan.slice_s, before + len(firsts)):
                break
            firsts.append((number + restart) % 2 == 0)  # A B, B A: what drifts evenly meets both alike
            for side in sides if firsts[-1] else reversed(sides):
                sampler.rest(arena.baseline_lacks == "sampler" and side is sides[0])
                run_slice(arena, side, plan.slice_s, memory)
        for side, burst_steps in zip(sides, plan.burst_steps, strict=True):
            finish_last_burst(arena, side, burst_steps, plan.slice_s)
    except SideLostError as error:
        failure = error.args[0]
    finally:
        trace = sampler.stop() if sampler is not None else None
        for side in sides:
            side.process.signal_group(SIGCONT)
            arena.launcher.release(side.process)
    return _pair_up(sides, firsts, restart, plan, trace, arena.foreign_limit_cores), failure


def _pair_up(
    sides: Sequence[Side],
    firsts: Sequence[bool],
    restart: int,
    plan: DuelPlan,
    trace: ResourceTrace | None,
    foreign_limit_cores: float,
) -> list[SlicePair]:
    """Return the pairs whose both slices hold something to count."""
    shares = [_share_out(side, plan.dropped_s, steps) for side, steps in zip(sides, plan.burst_steps, strict=False)]
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


def _share_out(side: Side, head_s: float, burst_steps: int) -> list[Share | None]:
    """Return what each slice counts; None where the burst that it cut was not seen to end, so that its pace is unknown.

    The turns before and after are known too: what was stopped in them was no time.
    """
    before = [] if side.warm_up is None else [side.warm_up]
    shares = share_out(side.finished_s, side.samples, [*before, *side.slices, *side.rest], head_s, burst_steps)
    whole = (len(side.finished_s) - 1) // burst_steps * burst_steps
    known_s = side.finished_s[whole] if side.finished_s else 0.0
    own = shares[len(before) : len(before) + len(side.slices)]
    return [share if each.ended_s <= known_s else None for share, each in zip(own, side.slices, strict=True)]


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


def apart(spec: TrialSpec, start: int, side: int) -> TrialSpec:
    """Return the spec of one side of one of several starts.

    Every start begins elsewhere in the order, so that what differs between samples is in the interval; both sides of a
    start begin at the same sample, unless the first would warm the page cache for the second.
    """
    strides = {"warm": start, "partly warm": 0}.get(spec.cache, 2 * start + side)
    return msgspec.structs.replace(spec, first_sample=spec.first_sample + strides * STRIDE_SAMPLES)
