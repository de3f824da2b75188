"""How long is a slice of a duel, and what of it is dropped? As the workload's own bursts and longest batch ask.

Pure. A stopped loader does not stand quite still: the waits it is in run out meanwhile, so each worker comes back with
up to one sample for nothing. That sample is delivered with the batch it belongs to; once every worker has delivered
one batch, the pace is the free-running one again. So the dropped head is as long as the longest batch, and what is left
of the slice holds a few whole bursts.

A virtual machine may hand freed memory back to its host some two seconds after it was freed. Where large batches go
through memory, each side then pays for what the other has freed, for as long after its turn begins: that is dropped
too, where there is time for such slices, and said where there is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadtune.advice.budget import (
    HEAD_MIN_S,
    HEAD_SHARE_MAX,
    SIDE_WARM_UP_S,
    SLICE_MAX_S,
    SLICE_MIN_S,
    DuelPlan,
    plan_duel,
)
from loadtune.advice.rules import STALL_RATIO
from loadtune.records.measurement import TrialResult
from loadtune.records.settings import DeviceKind
from loadtune.stats import BURSTS_MIN

SETTLE_S = 2.5
"""Dropped instead where freed memory goes back to a host: Linux reports it two seconds after it was freed. In slices of
2 s a loader of 64 MB batches ran at 0.8 of its free rate, and after 2.5 s of a turn at that rate."""
SETTLE_BYTES_PER_S = 1e8
"""Memory that a loader must move for that to show; with less, heads of 2.5 s would be time lost."""
SETTLED_STARTS_MIN = 3
"""Starts that a duel with long heads must have room for: with two, Student's factor of 12.7 would hide the answer."""
UNSETTLED = (
    "Memory that one side frees is handed back to this virtual machine's host while the other runs, and there was no "
    "time for slices that leave this out: the ratio may be off where one side moves more memory than the other."
)
RUN_AHEAD_STEPS = 2
"""Steps that a stopped process has queued on its GPU at most: a launch queue holds about a thousand kernels."""
SIDE_END_S = 0.3
"""Time to end a side's processes and to let the step run out that its last slice cut."""
START_MARGIN = 1.15
"""Seconds planned for a start by those that the trials took: one that runs late would cost the last pair."""
BURST_MARGIN = 1.15
"""Bursts planned by those needed: the slowest slice of a duel is a tenth slower than the trial."""
ENDING_MAX_S = 0.3
"""Planned at an epoch's end for ending the workers, beside what a trial saw of it, which is their start, and at most as
much again (eight waiting workers on two cores: 0.11 s beside 0.17 s). With less, slices hold too few epochs to be
trusted; with more, slow starts never fit."""
SLICE_STEPS_MIN = 4
"""Steps in a slice at least; with fewer, the part of a step that a slice cuts decides its count."""
SLICE_LIMIT_S = 6.0
"""Longest slice for the sake of long bursts; longer ones leave too few pairs in any budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How one setting delivers, in seconds, as its trial showed it."""

    head_s: float
    """Until a resumed side runs as freely as one that was never stopped."""
    active_s: float
    """The shortest time that counts finely: four steps, or a few bursts where workers deliver in bursts."""
    burst_steps: int
    """Steps that end together."""
    bytes_per_s: float
    """That its batches take, on their way through memory."""


def find_pace(trial: TrialResult, device: DeviceKind, epoch_batches: int | None = None) -> Pace:
    """Return how a setting delivers.

    Args:
        trial: A complete end-to-end trial of the setting.
        device: What it trained on. A GPU works on while its process is stopped.
        epoch_batches: Batches of the epochs that it is to run in: a whole one is a burst then; None: without end.
    """
    batch_s = trial.settings.batch_size / (trial.rate_per_s or 1.0)
    measured = trial.measurement
    waits_for_data = measured is not None and (measured.stall_ratio or 0.0) > STALL_RATIO
    workers = trial.settings.num_workers
    head_s = HEAD_MIN_S
    if device == "cuda" and measured is not None:
        head_s = max(head_s, RUN_AHEAD_STEPS * (measured.step_s or 0.0))
    if waits_for_data and workers and measured is not None:
        head_s = max(head_s, measured.longest_batch_s or 0.0)
    burst_steps = workers if waits_for_data and workers > 1 else 1
    active_s = BURST_MARGIN * BURSTS_MIN * burst_steps * batch_s if burst_steps > 1 else SLICE_STEPS_MIN * batch_s
    if epoch_batches is not None:
        start_again_s = 0.0 if measured is None else measured.epoch_boundary_s or 0.0
        boundary_s = start_again_s + min(start_again_s, ENDING_MAX_S)
        burst_steps, active_s = epoch_batches, BURST_MARGIN * BURSTS_MIN * (epoch_batches * batch_s + boundary_s)
    bytes_per_s = 0.0 if measured is None else (measured.batch_bytes or 0) / batch_s
    return Pace(head_s=head_s, active_s=active_s, burst_steps=burst_steps, bytes_per_s=bytes_per_s)


def fit_duel(
    left_s: float,
    baseline: TrialResult,
    contender: TrialResult,
    device: DeviceKind,
    *,
    returns_memory: bool = False,
    epoch_batches: int | None = None,
) -> DuelPlan | None:
    """Fit a duel of two measured settings into the seconds that are left; None where it does not fit.

    Args:
        left_s: Seconds for the whole duel.
        baseline: A trial of the one side.
        contender: A trial of the other.
        device: What they trained on.
        returns_memory: Whether this machine hands freed memory back to a host.
        epoch_batches: Batches of the epochs that both run in; None: without end.
    """
    paces = (find_pace(baseline, device, epoch_batches), find_pace(contender, device, epoch_batches))
    seconds = start_s((baseline, contender))
    if epoch_batches is not None:  # the epoch that a side's last slice cut runs to its end
        seconds += sum(pace.active_s / (BURST_MARGIN * BURSTS_MIN) for pace in paces)
    head_s = max(pace.head_s for pace in paces)
    if not returns_memory or max(pace.bytes_per_s for pace in paces) < SETTLE_BYTES_PER_S:
        return _fit(left_s, seconds, paces, head_s)
    settled = _fit(left_s, seconds, paces, max(head_s, SETTLE_S), must_settle=True)
    if settled is not None and settled.restarts >= SETTLED_STARTS_MIN:
        return settled
    hasty = _fit(left_s, seconds, paces, head_s)
    return None if hasty is None else replace(hasty, note=UNSETTLED)


def _fit(
    left_s: float, seconds: float, paces: tuple[Pace, Pace], head_s: float, *, must_settle: bool = False
) -> DuelPlan | None:
    """Fit a duel with this head; one that must settle is not cut below it."""
    coarse_s = min(SLICE_LIMIT_S, head_s + max(pace.active_s for pace in paces))
    bursts = (paces[0].burst_steps, paces[1].burst_steps)
    wanted_s = max(SLICE_MAX_S + (head_s - HEAD_MIN_S), coarse_s)
    if must_settle:
        coarse_s = max(coarse_s, head_s / HEAD_SHARE_MAX)
    least_s = coarse_s if must_settle or max(bursts) > 1 else SLICE_MIN_S  # bursts cut short would not be trusted
    plan = plan_duel(left_s, seconds, wanted_s, coarse_s, least_s)
    return None if plan is None else replace(plan, head_s=head_s, burst_steps=bursts)


def start_s(trials: Sequence[TrialResult]) -> float:
    """Return what starting these settings as sides of a duel takes, their end included."""
    return START_MARGIN * sum(_start_s(trial) for trial in trials)


def _start_s(trial: TrialResult) -> float:
    if trial.measurement is None:
        return 0.0
    startup = trial.measurement.startup
    warm_up_s = min(startup.device_warm_up_s, SIDE_WARM_UP_S) + min(startup.loader_warm_up_s, SIDE_WARM_UP_S)
    return startup.process_s + startup.build_s + startup.first_batch_s + warm_up_s + SIDE_END_S
