"""What must a reader bear in mind about the numbers, whatever limits the training?

Rules like those of `rules`: a case in, a finding or None out.
"""

import math

from loadtune.advice.case import Case
from loadtune.records.report import Evidence, Finding
from loadtune.records.resources import ResourceTrace
from loadtune.schedule.rules import BATCH_NORM_BATCH_SIZE

NOISY_SPREAD_RATIO = 0.1
"""Spread of the windows from which the rate is marked as noisy."""
SEVERE_SPREAD_RATIO = 0.25
"""Spread from which it is a warning."""
SPREAD_SOURCE = "torch.utils.benchmark: IQR above 10 % is a warning, above 25 % unreliable"
THERMAL_CAUSES = frozenset({"thermal"})
THERMAL_REASONS = frozenset({"hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake", "throttled"})
"""What holds a GPU's clocks down because of heat or a failing supply: by counter, and by what was active at a look. A
power cap is left out: a loaded data-centre GPU runs at it."""
THROTTLED_RATIO = 0.05
"""Share of the time for which they may do so; the same 5 % as any other stall."""
OTHER_SM_RATIO = 0.05
"""Share of the time in which other processes may run kernels on the GPU before a trial is marked. Own choice."""
FOREIGN_RATIO = 0.1
"""Share of the usable cores that others may take before a trial is marked as disturbed. Own choice."""
CACHE_WORDS = {
    "warm": ("Measured with the data in the page cache", "A first epoch, cold, is slower."),
    "partly warm": ("Measured with the first of the data in the page cache", "A first epoch, cold, is slower."),
    "streaming": ("Measured on fresh samples in every trial", "The data do not fit into memory, as in training."),
    "cold": ("Measured with the files dropped from the page cache", "Later epochs are faster where the data fit."),
}
"""What each state of the page cache means for the rate: title, and what to bear in mind."""


def page_cache(case: Case) -> Finding | None:
    """Where the bytes came from, since a first epoch and a later one differ in that."""
    trace = case.chosen.trace
    if trace is None or trace.miss_ratio is None:
        return None
    title, meaning = CACHE_WORDS[case.chosen.cache]
    return Finding(
        rule="page-cache",
        severity="info",
        title=title,
        detail=f"{trace.miss_ratio:.0%} of the bytes came from storage. {meaning}",
        evidence=(Evidence(name="miss_ratio", value=trace.miss_ratio),),
    )


def other_streams(case: Case) -> Finding | None:
    """Another number of workers draws other augmentations: each worker's generators are seeded with its own number."""
    if case.baseline is None or case.baseline.settings.num_workers == case.chosen.settings.num_workers:
        return None
    return Finding(
        rule="other-streams",
        severity="info",
        title="Another num_workers draws other augmentations for the same seed",
        detail="Each worker has generators of its own: no run is repeated bit for bit; the distribution is the same.",
    )


def noisy(case: Case) -> Finding | None:
    """The windows of a trial differ so much that its rate says little."""
    spreads = [trial.spread_ratio for trial in case.trials if trial.spread_ratio is not None]
    if not spreads or max(spreads) < NOISY_SPREAD_RATIO:
        return None
    worst = max(spreads)
    evidence = Evidence(name="spread_ratio", value=worst, threshold=NOISY_SPREAD_RATIO, source=SPREAD_SOURCE)
    return Finding(
        rule="noisy",
        severity="warning" if worst >= SEVERE_SPREAD_RATIO else "info",
        title=f"The rate varied by {worst:.0%} from window to window",
        detail="Rates of single trials are rough here; the comparison rests on the duel.",
        action="Give it a longer --budget, or a quieter machine." if worst >= SEVERE_SPREAD_RATIO else None,
        evidence=(evidence,),
    )


def foreign_load(case: Case) -> Finding | None:
    """Others, or the hypervisor, took cores during the trials that these could have used."""
    taken = [
        (trial.trace.mean_foreign_cores or 0.0) + (trial.trace.mean_steal_cores or 0.0) - case.limits.spare_cores
        for trial in case.trials
        if trial.trace is not None
    ]
    limit = FOREIGN_RATIO * case.limits.usable_cores
    if not taken or max(taken) < limit:
        return None
    evidence = Evidence(
        name="foreign_cores",
        value=max(taken),
        unit="cores",
        threshold=limit,
        source="own choice: 10 % of the cores",
    )
    return Finding(
        rule="foreign-load",
        severity="warning",
        title="Something else used this machine's cores meanwhile",
        detail=f"Up to {max(taken):.1f} of {case.limits.usable_cores:g} cores were taken by others.",
        action="Measure again on an idle machine, if the training will have it for itself.",
        evidence=(evidence,),
    )


def throttled_gpu(case: Case) -> Finding | None:
    """Heat, or a failing supply, held the GPU's clocks down: its rates are those of a slower one."""
    shares = [share for trial in case.trials if trial.trace is not None and (share := _held_down(trial.trace))]
    if not shares or max(shares) <= THROTTLED_RATIO:
        return None
    worst = max(shares)
    evidence = Evidence(name="throttled_ratio", value=worst, threshold=THROTTLED_RATIO, source="own choice")
    return Finding(
        rule="throttled-gpu",
        severity="warning",
        title=f"Heat or the power supply held the GPU's clocks down {worst:.0%} of the time",
        detail="Its rates are those of a slower GPU, and differ from trial to trial as it warms up.",
        action="Cool it better, or let it cool down, and measure again.",
        evidence=(evidence,),
    )


def _held_down(trace: ResourceTrace) -> float | None:
    """Return the share of the time with the clocks held down, by the counters or by looks while measuring."""
    counted = [] if trace.gpu_use is None or trace.gpu_use.throttled is None else trace.gpu_use.throttled
    ratio = sum(each.ratio for each in counted if each.cause in THERMAL_CAUSES)
    begin_s, end_s = trace.measuring_s or (-math.inf, math.inf)
    looks = [
        not THERMAL_REASONS.isdisjoint(state.throttle_reasons)
        for state in trace.gpu_states
        if state.throttle_reasons is not None and begin_s <= state.at_s <= end_s
    ]
    return max(ratio, sum(looks) / len(looks)) if looks else ratio or None


def shared_gpu(case: Case) -> Finding | None:
    """Others computed on the GPU meanwhile: time and memory were not the trial's alone."""
    uses = [trial.trace.gpu_use for trial in case.trials if trial.trace is not None and trial.trace.gpu_use is not None]
    ratio = max((use.other_sm_ratio or 0.0 for use in uses), default=0.0)
    processes = max((use.other_processes or 0 for use in uses), default=0)
    if ratio <= OTHER_SM_RATIO and not processes:
        return None
    evidence = (
        Evidence(name="other_processes", value=processes, threshold=0),
        Evidence(name="other_sm_ratio", value=ratio, threshold=OTHER_SM_RATIO, source="own choice"),
    )
    is_busy = ratio > OTHER_SM_RATIO
    told = f"They had a kernel running {ratio:.0%} of the time." if is_busy else "They hold a part of its memory."
    return Finding(
        rule="shared-gpu",
        severity="warning" if is_busy else "info",
        title="One other process is on the GPU" if processes == 1 else "Other processes are on the GPU",
        detail=f"{told} GPU utilisation and memory are not the trial's alone.",
        action="Measure again on a GPU of its own, if the training will have one." if is_busy else None,
        evidence=evidence,
    )


def small_batch(case: Case) -> Finding | None:
    """BatchNorm sees too few samples a device."""
    batch_size = case.chosen.settings.batch_size
    if batch_size >= BATCH_NORM_BATCH_SIZE:
        return None
    evidence = Evidence(
        name="batch_size",
        value=batch_size,
        threshold=BATCH_NORM_BATCH_SIZE,
        source="DeepLabv3: mIOU falls below 8",
    )
    return Finding(
        rule="small-batch",
        severity="info",
        title=f"BatchNorm sees {batch_size} samples a step",
        detail=f"Below {BATCH_NORM_BATCH_SIZE} a device its statistics are poor; accumulation is no cure.",
        action="If the model trains BatchNorm: GroupNorm, SyncBatchNorm, or frozen statistics.",
        evidence=(evidence,),
    )
