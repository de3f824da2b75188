"""What does the evidence say about the cause, and what can be done?

One small function a rule: a case in, a finding or None out; a file of this package for each kind of resource. Here
stand their order, which explains away which, and the ranking by what fixing each is worth. What each means, with its
thresholds and how it was validated, is in `advice.pages`.
"""

from collections.abc import Callable

from loadtune.advice.case import Case, throttled_periods_ratio
from loadtune.advice.cautions import noisy, other_streams, page_cache
from loadtune.advice.growth import noise_scale
from loadtune.advice.rules.cores import (
    cpu_quota,
    cpu_saturated,
    foreign_load,
    pinned_workers,
    thread_oversubscription,
)
from loadtune.advice.rules.gpu import (
    copy_bound,
    device_bound,
    launch_bound,
    shared_gpu,
    small_batch_norm,
    synchronising_step,
    throttled_gpu,
    unqueued_ratio,
)
from loadtune.advice.rules.loader import (
    loader_bound,
    main_process_bound,
    repeated_samples,
    shallow_prefetch,
    slow_samples,
)
from loadtune.advice.rules.memory import memory_growth, pin_pressure, swap, swapped_ratio
from loadtune.advice.rules.speaking import covers, stalled
from loadtune.advice.rules.starting import epoch_boundary, slow_start, stalling_boundary_ratio
from loadtune.advice.rules.storage import storage_bound
from loadtune.advice.rules.undecided import (
    undecided_cores,
    undecided_ends,
    undecided_hand_over,
    undecided_host,
    undecided_plateau,
    undecided_step,
)
from loadtune.advice.rules.utilisation import jittery_gpu, low_steady_gpu
from loadtune.advice.thresholds import BUSY_P95, IDLE_P5, STALL
from loadtune.records.report import Finding

STALL_RATIO, BUSY_P95_RATIO, IDLE_P5_RATIO = STALL.value, BUSY_P95.value, IDLE_P5.value
"""The thresholds that other rooms measure by too."""

RULES = (
    device_bound, pinned_workers, cpu_quota, swap, thread_oversubscription, slow_samples, shallow_prefetch,
    main_process_bound, foreign_load, cpu_saturated, storage_bound, loader_bound, repeated_samples, slow_start,
    epoch_boundary, synchronising_step, copy_bound, launch_bound, throttled_gpu, shared_gpu, memory_growth,
    pin_pressure,
    undecided_cores, undecided_ends, undecided_host, undecided_hand_over, undecided_plateau, undecided_step,
)  # fmt: skip
"""Causes, the more specific first: it decides between findings of the same worth."""
REMARKS = (jittery_gpu, low_steady_gpu, noise_scale, noisy, small_batch_norm, page_cache, other_streams)
"""What is a symptom of a cause above, or must be borne in mind: after all causes, whatever they are worth."""

EXPLAINED_BY: dict[str, frozenset[str]] = {
    "loader-bound": frozenset(
        {"pinned-workers", "cpu-quota", "thread-oversubscription", "slow-samples", "shallow-prefetch", "swap"}
        | {"main-process-bound", "synchronising-step"}
    ),
    "main-process-bound": frozenset({"synchronising-step", "slow-samples", "shallow-prefetch", "swap"}),
    "storage-bound": frozenset(
        {"pinned-workers", "slow-samples", "swap", "thread-oversubscription", "main-process-bound"}
    ),
    "cpu-saturated": frozenset({"pinned-workers", "cpu-quota", "thread-oversubscription", "epoch-boundary"}),
    "shallow-prefetch": frozenset({"slow-samples", "pinned-workers", "cpu-quota", "epoch-boundary"}),
    "epoch-boundary": frozenset({"slow-start"}),
    "foreign-load": frozenset({"pinned-workers", "thread-oversubscription"}),
    "undecided": frozenset(
        {"pinned-workers", "cpu-quota", "thread-oversubscription", "slow-samples", "swap", "synchronising-step"}
        | {"shallow-prefetch", "epoch-boundary"}
    ),
}
"""What a rule sees may be the trace that a more specific cause leaves; then it ranks behind that cause."""
DROPPED_IF_EXPLAINED = frozenset({"loader-bound", "undecided"})
"""Of these nothing is left to say then: more workers are the wrong advice, and what was open is decided."""
BOUNDS: dict[str, Callable[[Case], float | None]] = {
    "cpu-quota": lambda case: throttled_periods_ratio(case.chosen.trace),
    "swap": lambda case: swapped_ratio(case.chosen),
    "synchronising-step": unqueued_ratio,
    "epoch-boundary": stalling_boundary_ratio,
}
"""Causes of which it is known what share of the time they can have taken at most. One that cannot be most of a stall
explains nothing away: its worth is bounded by that share, and so it ranks behind what else was found."""
CERTAIN = frozenset({"main-process-bound", "storage-bound", "cpu-saturated"})
"""A cause of the stall that was found leaves nothing undecided about it."""


def find(case: Case) -> tuple[Finding, ...]:
    """Return every finding: causes by what fixing them is worth at most, then what is worth an unknown amount.

    A bound is no measurement: of two causes of one stall each may be worth all of it, and the more specific is named
    first. Remarks (symptoms, and what must be borne in mind) come last, the serious ones first.
    """
    found = [finding for rule in RULES if (finding := rule(case)) is not None]
    names = {finding.rule for finding in found if _explains(case, finding)}
    explained = {name for name, causes in EXPLAINED_BY.items() if causes & names}
    if CERTAIN & names:
        explained |= {"undecided"}
    causes = [each for each in found if each.rule not in explained & DROPPED_IF_EXPLAINED]
    causes.sort(key=lambda each: (each.rule in explained, -(each.worth_per_s or 0.0), _rank(each)))
    remarks = [finding for rule in REMARKS if (finding := rule(case)) is not None]
    return (*causes, *sorted(remarks, key=_rank))


def _explains(case: Case, finding: Finding) -> bool:
    """Say whether a finding may be what others of the stall are the trace of: it is felt, and can be most of it."""
    bound, stall = BOUNDS.get(finding.rule), stalled(case.chosen)
    lost_ratio = None if bound is None else bound(case)
    return finding.severity != "info" and (lost_ratio is None or stall is None or covers(stall, lost_ratio))


def _rank(finding: Finding) -> int:
    return ("warning", "advice", "info").index(finding.severity)
