"""Is the loader the limit, and by what? Workers too few, samples too slow, queues too short, starts too long."""

import math

from loadtune.advice.case import (
    Case,
    blocked_ratio,
    capacity_per_s,
    describe,
    is_cold,
    looked_capacity_per_s,
    main_work_cores,
    miss_ratio,
    spare_ratio,
    taking_cpu_s,
    took_from_storage,
    used_cores,
    wanted_cores,
    with_workers,
    worker_setup,
    worker_times,
)
from loadtune.advice.rules.speaking import cores_evidence, has_idle_cores, plain, stall_severity, stalled
from loadtune.advice.rules.starting import is_all_beginning, stalling_boundary_ratio
from loadtune.advice.thresholds import (
    BLOCKED,
    BOUNDARY,
    CAPACITY,
    HANDOVER_CORES,
    HANDOVER_SPARE,
    LONG_BATCH,
    MAIN_CORES,
    PLATEAU,
    REPEATED,
    SLOW_EXCESS,
    SLOW_FACTOR,
    SPREAD,
    STALL,
)
from loadtune.advice.worth import (
    cores_rate_per_s,
    device_rate_per_s,
    samples_per_batch,
    worth_of_feeding,
    worth_of_stalled_share,
)
from loadtune.records.measurement import TrialResult, WorkerTimes
from loadtune.records.report import Evidence, Finding

FEED_MARGIN = 1.15
"""What the loader should make by what the device takes: batches are uneven. With less the device waits now and then,
more costs memory alone."""


def loader_bound(case: Case) -> Finding | None:
    """The device waits while cores are idle, and nothing speaks against more workers: they hide what each waits for."""
    trial = case.chosen
    stall, cores = stalled(trial), used_cores(trial)
    if stall is None or cores is None or not has_idle_cores(case, trial) or is_cold(trial):
        return None
    ended = stalling_boundary_ratio(case) or 0.0
    ended = ended if ended >= BOUNDARY.value else 0.0  # what is told of nowhere else stays here
    if stall - ended < STALL.value or is_all_beginning(case):
        return None  # more workers would make the ends of epochs longer
    if more_workers_won_nothing(case) is not None or are_fast_enough(case):
        return None
    blocked = blocked_ratio(trial)
    waits = blocked is not None and blocked >= BLOCKED.value
    is_disk_known = miss_ratio(trial) is not None or took_from_storage(trial) is False
    return Finding(
        rule="loader-bound",
        severity=stall_severity(stall - ended),
        title="The loader is the limit, and cores are idle",
        detail=f"The device waited {stall:.1%} of the time with {describe(trial)}, "
        f"while {cores:.1f} of {case.limits.usable_cores:g} cores were used."
        + (f" The ends of epochs were {ended:.0%} of the time; what is left is the loader's." if ended else "")
        + (
            f" A worker waits for something else than a core {blocked:.0%} of its time: a read over the network"
            f"{'' if is_disk_known else ' or from a disk'}, a service, a wait in the data set's own code."
            if waits
            else ""
        ),
        action=_ask_for_workers(case, trial)
        + (" Larger reads, or a local copy of the data, end such waiting." if waits else ""),
        evidence=(
            STALL.evidence(stall),
            cores_evidence(case, wanted_cores(case, trial) or cores),
            *(() if blocked is None else (BLOCKED.evidence(blocked),)),
        ),
        confidence="medium" if blocked is None or waits else "high",
        confirm=f"The rate rises with num_workers={trial.settings.num_workers + 1}.",
        worth_per_s=worth_of_stalled_share(case, trial, stall - ended) if ended else worth_of_feeding(case, trial),
    )


def _ask_for_workers(case: Case, trial: TrialResult) -> str:
    """Return how many workers to try: as many as feed the device, or use up the cores, at what a sample takes one now.

    They are never more than an epoch has batches.
    """
    times, device = worker_times(trial), device_rate_per_s(case, trial)
    if times is None or device is None:
        return "Try more workers (--num-workers)."
    cores = cores_rate_per_s(case) or math.inf
    wanted = math.ceil(FEED_MARGIN * times.busy_s_per_sample * min(device, cores))
    if case.sample_count:
        wanted = min(wanted, math.ceil(case.sample_count / trial.settings.batch_size))
    if wanted <= trial.settings.num_workers:
        return "Try more workers (--num-workers)."
    aim = "make what the device takes" if device <= cores else "use up the cores"
    return f"Try num_workers={wanted}: so many {aim}, at the time that a sample takes each now."


def is_storage(trial: TrialResult) -> bool:
    """Say whether waiting, by misses or by blocked workers, is most of what the loader does."""
    blocked = blocked_ratio(trial)
    return is_cold(trial) or (blocked is not None and blocked >= BLOCKED.value)


def are_fast_enough(case: Case) -> bool:
    """Say whether the workers could make half as much again as the device takes: then too few they are not."""
    capacity, device = capacity_per_s(case.chosen), device_rate_per_s(case, case.chosen)
    return capacity is not None and bool(device) and capacity >= HANDOVER_SPARE.value * (device or 0.0)


def more_workers_won_nothing(case: Case) -> TrialResult | None:
    """Return a trial with more workers, else alike, that was no faster; None where there is none."""
    own, rate = case.chosen.settings, case.chosen.rate_per_s
    more = [
        each
        for each in case.others
        if each.role in {"grid", "baseline"}
        and each.rate_per_s is not None
        and each.settings.batch_size == own.batch_size
        and each.settings.num_workers > own.num_workers
    ]
    best = max(more, key=lambda each: each.rate_per_s or 0.0, default=None)
    return best if best is not None and rate and (best.rate_per_s or 0.0) <= PLATEAU.value * rate else None


def main_process_bound(case: Case) -> Finding | None:
    """The main process itself is the limit: busy all the time, or taking batches for half of it while more lie ready.

    While it takes a large object from a pipe it waits for the writer by turns, so it need not look busy throughout.
    """
    trial = case.chosen
    stall, busy = stalled(trial), main_work_cores(trial, case.others)
    is_own_loop = case.device != "cpu" and trial.settings.num_workers > 0
    if stall is None or busy is None or not is_own_loop:
        return None
    spare, taking_s = spare_ratio(trial), taking_cpu_s(case.others)
    taking = None if taking_s is None else taking_s * (trial.rate_per_s or 0.0)
    is_full = busy >= MAIN_CORES.value
    evidence, told = [STALL.evidence(stall)], ""
    if is_full:
        evidence.append(MAIN_CORES.evidence(busy))
    elif spare is None or taking is None or spare < HANDOVER_SPARE.value or taking < HANDOVER_CORES.value:
        return None
    else:
        evidence += [HANDOVER_CORES.evidence(taking), HANDOVER_SPARE.evidence(spare)]
        told = f" Taking batches alone is {taking:.2f} of it, and the workers could make {spare:.1f} times as many."
    return Finding(
        rule="main-process-bound",
        severity="advice",
        title="The main process is the limit: more workers will not help",
        detail=f"It worked on {busy:.2f} cores while the device waited {stall:.1%} of the time.{told}",
        action="Give it less to do: fewer and larger tensors a batch, no lists of small objects, a cheaper loop.",
        evidence=tuple(evidence),
        confidence="high" if is_full else "medium",
        confirm="py-spy top --pid of the training process shows what it does between the steps.",
        worth_per_s=worth_of_feeding(case, case.chosen),
    )


def slow_samples(case: Case) -> Finding | None:
    """Few samples take many times the usual: the batches behind them lie ready and must wait (in_order)."""
    stall, times = stalled(case.chosen), worker_times(case.chosen)
    if stall is None or times is None or not times.median_sample_s or times.slow_excess_ratio is None:
        return None
    factor = (times.slowest_sample_s or 0.0) / times.median_sample_s
    if factor < SLOW_FACTOR.value or times.slow_excess_ratio < SLOW_EXCESS.value:
        return None
    others_s = times.busy_s_per_sample * max(0.0, samples_per_batch(case.chosen) - 1)
    if _is_hidden(case, max((times.slowest_sample_s or 0.0) + others_s, _long_batch_s(case.chosen, times))):
        return None
    named, confirm = _name_slowest(times)
    waits = "The batches behind it wait: they are handed over in order." if case.chosen.settings.in_order else ""
    return Finding(
        rule="slow-samples",
        severity=stall_severity(stall),
        title="A few slow samples hold the others up",
        detail=f"The slowest, {named}, took {times.slowest_sample_s:.3g} s, {factor:.0f} times the median; such "
        f"samples are {times.slow_excess_ratio:.0%} of the preparing. {waits}".rstrip(),
        action="Look at that sample; store such samples smaller, or raise prefetch_factor; in_order=False lets others "
        "pass where the order may change.",
        evidence=(
            STALL.evidence(stall),
            SLOW_FACTOR.evidence(factor),
            SLOW_EXCESS.evidence(times.slow_excess_ratio),
            *(() if times.slowest_index is None else (plain("slowest_index", float(times.slowest_index)),)),
        ),
        confirm=confirm,
        worth_per_s=worth_of_feeding(case, case.chosen),
    )


def _is_hidden(case: Case, delay_s: float) -> bool:
    """Say whether the queue hides a batch that takes so long: it holds steps enough, and the workers refill it quickly.

    What is requested beyond the late batch lies ready when it was requested long enough before: at best all of it.
    """
    trial, device = case.chosen, device_rate_per_s(case, case.chosen)
    ready = max(0, trial.settings.batches_in_flight - 1)
    return are_fast_enough(case) and bool(device) and delay_s <= ready * samples_per_batch(trial) / (device or 1.0)


def _long_batch_s(trial: TrialResult, times: WorkerTimes) -> float:
    """Return what a long batch takes in a worker; its slow samples add up."""
    usual_s = times.busy_s_per_sample * samples_per_batch(trial)
    return usual_s * (1.0 + LONG_BATCH.value * (times.batch_spread_ratio or 0.0))


def _name_slowest(times: WorkerTimes) -> tuple[str, str]:
    """Return the slowest sample by a name that its user can follow, and how to see for oneself that it is slow."""
    index, place = times.slowest_index, times.slowest_in or "dataset"
    if index is None:
        return "one sample", "Time the samples one by one."
    if place == "dataset":
        return f"sample {index}", f"dataset[{index}] timed by itself is as slow again."
    if place.startswith("dataset"):
        return (
            f"sample {index} of the data set under your Subset",
            f"{place}[{index}] timed by itself is as slow again.",
        )
    return (
        f"number {index} (from 0) of {place}'s samples in an epoch",
        "Walk through iter(dataset) in a worker and time each step: a few take many times the median.",
    )


def shallow_prefetch(case: Case) -> Finding | None:
    """The workers are fast enough on average, but their batches are uneven and the queue too short for it."""
    trial = case.chosen
    stall, times, capacity = stalled(trial), worker_times(trial), looked_capacity_per_s(case)
    device = device_rate_per_s(case, trial)
    if stall is None or times is None or capacity is None or not device or times.batch_spread_ratio is None:
        return None
    factor = capacity / device
    if factor < CAPACITY.value or times.batch_spread_ratio < SPREAD.value:
        return None
    if _is_hidden(case, _long_batch_s(trial, times)):
        return None
    queue = trial.settings.batches_in_flight // max(1, trial.settings.num_workers)
    return Finding(
        rule="shallow-prefetch",
        severity=stall_severity(stall),
        title="The prefetch queue is too short for how uneven the batches are",
        detail=f"The workers could deliver {factor:.2f} times what the device takes, yet it waited {stall:.1%} of the "
        f"time: a batch's time varies by {times.batch_spread_ratio:.0%}.",
        action=f"Set prefetch_factor={2 * queue} (now {queue}), if memory allows.",
        evidence=(
            STALL.evidence(stall),
            CAPACITY.evidence(factor),
            SPREAD.evidence(times.batch_spread_ratio),
        ),
        confidence="medium",
        confirm=f"The stall shrinks with prefetch_factor={2 * queue} and stays with one more worker.",
        worth_per_s=worth_of_feeding(case, trial),
    )


def repeated_samples(case: Case) -> Finding | None:
    """An iterable data set that every worker walks through whole: an epoch holds each sample num_workers times."""
    trial = with_workers(case, 2)
    setup = None if trial is None else worker_setup(trial)
    if trial is None or setup is None or setup.repeated_ratio is None or setup.repeated_ratio < REPEATED.value:
        return None
    workers, rate = trial.settings.num_workers, case.chosen.rate_per_s
    is_chosen = case.chosen.settings.num_workers > 1
    return Finding(
        rule="repeated-samples",
        severity="warning",
        title="Every worker gives the same samples",
        detail=f"With {describe(trial)}, {setup.repeated_ratio:.0%} of the first samples of a worker came from another "
        f"one as well: an epoch holds each sample up to {workers} times, and is that much longer.",
        action="Let __iter__ take its own share: get_worker_info().id and .num_workers say which.",
        evidence=(REPEATED.evidence(setup.repeated_ratio), plain("num_workers", float(workers))),
        confirm=f"An epoch with num_workers=1 has a {workers}th of the samples.",
        worth_per_s=None if rate is None or not is_chosen else rate * (1.0 - 1.0 / workers),
    )


def evidence_of_plateau(other: TrialResult, own: TrialResult) -> Evidence:
    """Return by how much more workers were faster."""
    return PLATEAU.evidence((other.rate_per_s or 0.0) / (own.rate_per_s or 1.0))
