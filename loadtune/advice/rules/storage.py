"""Does the loader wait for storage? Misses of the page cache tell a cold cache; blocked workers tell the rest."""

from loadtune.advice.case import Case, blocked_ratio, is_cold, miss_ratio, took_from_storage, used_cores, worker_times
from loadtune.advice.rules.loader import evidence_of_plateau, more_workers_won_nothing
from loadtune.advice.rules.speaking import has_idle_cores, is_saturated, stall_severity, stalled
from loadtune.advice.thresholds import BLOCKED, MISS, STALL
from loadtune.advice.worth import worth_of_feeding
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Finding


def storage_bound(case: Case) -> Finding | None:
    """The device waits, and most bytes came from storage, or workers wait for something that more of them do not hide.

    Where they might hide it, cores being idle and no trial against it, that is loader-bound.
    """
    trial = case.chosen
    stall, missed, blocked = stalled(trial), miss_ratio(trial), blocked_ratio(trial)
    is_blocked = blocked is not None and blocked >= BLOCKED.value
    if stall is None or not (is_cold(trial) or is_blocked):
        return None
    cores = used_cores(trial)
    # Used-up cores speak against it: a thread that waits for others of its own process looks blocked too.
    has_no_idle = cores is not None and not has_idle_cores(case, trial)
    if cores is not None and (is_saturated(case, cores) or (has_no_idle and not is_blocked)):
        return None
    more = more_workers_won_nothing(case)
    if not is_cold(trial) and cores is not None and not has_no_idle and more is None:
        return None
    waits = "" if blocked is None else f" Workers waited, off the cores, for {blocked:.0%} of a sample's time."
    numbers = [STALL.evidence(stall), *(() if missed is None else (MISS.evidence(missed),))]
    if blocked is not None:
        numbers.append(BLOCKED.evidence(blocked))
    if more is not None:
        numbers.append(evidence_of_plateau(more, trial))
    if missed is not None and is_cold(trial):
        return Finding(
            rule="storage-bound",
            severity=stall_severity(stall),
            title="Storage is the limit",
            detail=f"The device waited {stall:.1%} of the time and {missed:.0%} of the bytes came from storage.{waits}",
            action="Copy the data to faster storage or into memory, or store fewer and larger files.",
            evidence=tuple(numbers),
            confidence="high" if is_blocked else "medium",
            confirm="A second run over the same files, now in the page cache, is faster.",
            worth_per_s=worth_of_feeding(case, trial),
        )
    may_be_disk = missed is None and took_from_storage(trial) is not False
    return Finding(
        rule="storage-bound",
        severity=stall_severity(stall),
        title="The workers wait for something other than a core"
        if missed is None
        else "The workers wait for reads, and not for this machine's disk",
        detail=f"The device waited {stall:.1%} of the time.{waits.removesuffix('.')}{_tell_cache(trial)}: "
        f"{'this disk, ' if may_be_disk else ''}a network file system, a service, or a wait in the data set's own "
        "code.",
        action="Larger reads, or a local copy of the data.",
        evidence=tuple(numbers),
        confidence="low" if missed is None else "medium",
        confirm="py-spy dump --pid of a worker shows the call that it waits in.",
        worth_per_s=worth_of_feeding(case, trial),
    )


def _tell_cache(trial: TrialResult) -> str:
    """Return how long a sample was waited for, and what of it missed the page cache."""
    times, trace, missed = worker_times(trial), trial.trace, miss_ratio(trial)
    each = "" if times is None or times.blocked_s_per_sample is None else f" ({times.blocked_s_per_sample:.3g} s each)"
    if missed is not None:
        return f"{each}; only {missed:.0%} of the bytes missed the page cache"
    told = () if trace is None else trace.unavailable
    reason = next((left_out.reason for left_out in told if left_out.reading == "miss_ratio"), None)
    return f"{each}; what missed the page cache is not known{'' if reason is None else f' ({reason})'}"
