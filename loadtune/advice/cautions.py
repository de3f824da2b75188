"""What must a reader bear in mind about the numbers, whatever limits the training?

Rules like those of `rules`: a case in, a finding or None out.
"""

from loadtune.advice.case import Case
from loadtune.records.report import Evidence, Finding
from loadtune.schedule.rules import BATCH_NORM_BATCH_SIZE

NOISY_SPREAD_RATIO = 0.1
"""Spread of the windows from which the rate is marked as noisy."""
SEVERE_SPREAD_RATIO = 0.25
"""Spread from which it is a warning."""
SPREAD_SOURCE = "torch.utils.benchmark: IQR above 10 % is a warning, above 25 % unreliable"
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
