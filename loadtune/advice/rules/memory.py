"""Does memory get in the way? Workers that grow, pinned queues, and swap."""

from loadtune.advice.case import Case
from loadtune.advice.rules.speaking import Severity, covers, plain, stalled
from loadtune.advice.thresholds import GROWTH, GROWTH_OWN, GROWTH_SEEN, PINNED, STALL, SWAPPED
from loadtune.advice.worth import worth_of_stalled_share
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Finding

MIB = 2**20
PIN_ROUNDING = 2
"""torch rounds a pinned block up to a power of two (CachingHostAllocator): at worst it takes twice the batch."""

PAGE_BYTES = 4096
"""Of the kernel's count of pages, from which bytes were made on x86; a larger page makes the bound larger."""
SWAP_IN_S = 0.01 / 8
"""Seconds a page read back from swap at most: a disk's seek of 10 ms brings 8 pages (vm.page-cluster is 3). A flash
drive takes a tenth. Higher lets a few pages take the place of what really stalls; lower is no bound on a disk."""


def memory_growth(case: Case) -> Finding | None:
    """Each sample costs memory that stays: objects of the data set copied on write, page by page."""
    grown = _growth_per_sample_bytes(case.chosen)
    if grown is None or not case.sample_count:
        return None
    per_sample, seen_bytes = grown
    epoch_bytes = per_sample * case.sample_count
    ratio = epoch_bytes / case.limits.memory_limit_bytes
    own_bytes = None if case.chosen.trace is None else case.chosen.trace.pss_first_bytes
    own_ratio = epoch_bytes / own_bytes if own_bytes else 0.0
    if max(ratio / GROWTH.value, own_ratio / GROWTH_OWN.value) < 1.0:
        return None
    is_near_limit = ratio >= GROWTH.value
    each_bytes = seen_bytes / case.chosen.settings.num_workers
    if each_bytes < GROWTH_SEEN.value:
        return None
    return Finding(
        rule="memory-growth",
        severity="warning" if is_near_limit else "advice",
        title="Memory grows with every sample that the workers read",
        detail=f"It grew by {seen_bytes / MIB:.0f} MiB while measuring, {per_sample:.0f} bytes a sample: "
        f"{epoch_bytes / 2**30:.1f} GiB over the first epoch.",
        action="Keep lists of paths and labels in one numpy array or tensor: reading a Python object writes its "
        "reference count, and copies its page.",
        evidence=(
            GROWTH.evidence(ratio),
            GROWTH_OWN.evidence(own_ratio),
            GROWTH_SEEN.evidence(each_bytes),
            plain("growth_bytes_per_sample", per_sample, "bytes"),
        ),
        confidence="medium",
        confirm="The workers' USS (smaps_rollup: Private_Dirty) over an epoch; it levels off after the first.",
    )


def _growth_per_sample_bytes(trial: TrialResult) -> tuple[float, float] | None:
    """Return growth a sample and growth in all; None where not read twice.

    Left out is what batches on their way take (the queue holds them, each worker makes another, the main process has
    one in hand), and pages of files: a memory map fills the page cache, which the kernel empties as it needs.
    """
    trace, measured = trial.trace, trial.measurement
    if trace is None or measured is None or trace.pss_bytes is None or trace.pss_first_bytes is None:
        return None
    queue_bytes = (trial.settings.batches_in_flight + trial.settings.num_workers + 1) * (measured.batch_bytes or 0)
    grown = trace.pss_bytes - trace.pss_first_bytes - (trace.pss_file_growth_bytes or 0) - queue_bytes
    samples = measured.samples_seen - trial.settings.batch_size
    return (grown / samples, float(grown)) if samples > 0 and trial.settings.num_workers else None


def pin_pressure(case: Case) -> Finding | None:
    """All batches on their way may be pinned at once, memory that can be neither swapped nor dropped."""
    settings, measured = case.chosen.settings, case.chosen.measurement
    if measured is None or not measured.batch_bytes or not settings.pin_memory or not settings.num_workers:
        return None
    pinned_bytes = PIN_ROUNDING * settings.batches_in_flight * measured.batch_bytes
    ratio = pinned_bytes / case.limits.memory_limit_bytes
    if ratio < PINNED.value:
        return None
    return Finding(
        rule="pin-pressure",
        severity="warning" if pinned_bytes >= case.limits.memory_available_bytes else "advice",
        title="The prefetch queue may pin much of the memory",
        detail=f"{settings.batches_in_flight} batches of {measured.batch_bytes / MIB:.0f} MiB may be on their way: up "
        f"to {pinned_bytes / 2**30:.1f} GiB of pinned memory, {ratio:.0%} of what this process may use.",
        action="Lower prefetch_factor or num_workers, or hand over smaller samples (uint8, normalised on the GPU).",
        evidence=(PINNED.evidence(ratio), plain("batches_in_flight", float(settings.batches_in_flight))),
        confidence="medium",
        confirm="Memory of the main process with prefetch_factor=1.",
    )


def swapped_ratio(trial: TrialResult) -> float | None:
    """Return the share of the time that reading back from swap can have taken at most; None where not counted.

    As if all of it had fallen into the windows, and on pages of the trial, one after another.
    """
    trace, measured = trial.trace, trial.measurement
    if trace is None or measured is None or trace.swapped_in_bytes is None:
        return None
    return min(1.0, trace.swapped_in_bytes / PAGE_BYTES * SWAP_IN_S / measured.duration_s)


def swap(case: Case) -> Finding | None:
    """The machine read pages back from swap while the trial ran."""
    trace, ratio = case.chosen.trace, swapped_ratio(case.chosen)
    if trace is None or ratio is None or (trace.swapped_in_bytes or 0) < SWAPPED.value:
        return None
    stall = stalled(case.chosen)
    severity: Severity = "info"
    if stall is not None and ratio > STALL.value:
        severity = "warning" if covers(stall, ratio) else "advice"
    numbers = (
        SWAPPED.evidence(float(trace.swapped_in_bytes or 0)),
        plain("swapped_in_ratio_max", ratio),
        *(() if stall is None else (STALL.evidence(stall),)),
    )
    return Finding(
        rule="swap",
        severity=severity,
        title="The machine swapped meanwhile",
        detail=f"{(trace.swapped_in_bytes or 0) / MIB:.0f} MiB were read back from swap: memory is short, and what was "
        f"swapped out is waited for, at most {ratio:.1%} of the time.",
        action="Use fewer workers or a smaller prefetch_factor, or end what else holds memory.",
        evidence=numbers,
        confidence="medium",
        confirm="pswpin in /proc/vmstat grows while training; it is the whole machine's, not this process's alone.",
        worth_per_s=None if stall is None else worth_of_stalled_share(case, case.chosen, ratio),
    )
