"""Which causes can the evidence not tell apart? Said as such, with what to run: never a guess."""

from loadtune.advice.case import (
    Case,
    capacity_per_s,
    delayed_ratio,
    describe,
    resident_trials,
    stall_ratio,
    taken_cores,
    used_cores,
)
from loadtune.advice.rules.loader import are_fast_enough, evidence_of_plateau, is_storage, more_workers_won_nothing
from loadtune.advice.rules.speaking import has_idle_cores, plain, stalled
from loadtune.advice.rules.starting import is_all_beginning, shorten_ends, stalling_boundary_ratio
from loadtune.advice.thresholds import FOREIGN, HOST_WAITS, INFLATED, STALL
from loadtune.advice.worth import samples_per_batch, worth_of_feeding
from loadtune.records.report import Finding


def undecided_cores(case: Case) -> Finding | None:
    """The device waits, and what the cores did meanwhile was not read."""
    stall = stalled(case.chosen)
    if stall is None or used_cores(case.chosen) is not None or is_storage(case.chosen):
        return None
    reasons = () if case.chosen.trace is None else case.chosen.trace.unavailable
    why = next((each.reason for each in reasons if each.reading in {"mean_main_cores", "mean_worker_cores"}), None)
    return Finding(
        rule="undecided",
        severity="advice",
        title="Undecided between loader-bound and cpu-saturated",
        detail=f"The device waited {stall:.1%} of the time; what the cores did meanwhile was not read"
        f"{'' if why is None else f' ({why})'}.",
        action=f"Probe with --num-workers {case.chosen.settings.num_workers + 2}: the rate rises only where cores are "
        "left.",
        evidence=(STALL.evidence(stall),),
        confidence="low",
        confirm="top, while training: are all cores busy?",
        worth_per_s=worth_of_feeding(case, case.chosen),
        between=("loader-bound", "cpu-saturated"),
    )


def undecided_plateau(case: Case) -> Finding | None:
    """Cores are idle, yet more workers were measured and won nothing: something else holds them all up."""
    stall, more = stalled(case.chosen), more_workers_won_nothing(case)
    if stall is None or more is None or not has_idle_cores(case, case.chosen) or is_storage(case.chosen):
        return None
    return Finding(
        rule="undecided",
        severity="advice",
        title="Undecided between storage-bound and main-process-bound",
        detail=f"The device waited {stall:.1%} of the time and cores are idle, yet {describe(more)} was no faster: "
        "storage, a lock that the workers share, or the main process.",
        action="Look at a worker and at the main process with py-spy dump --pid, while training.",
        evidence=(STALL.evidence(stall), evidence_of_plateau(more, case.chosen)),
        confidence="low",
        confirm="The loader alone, with nothing consuming, and the same data in memory.",
        worth_per_s=worth_of_feeding(case, case.chosen),
        between=("storage-bound", "main-process-bound"),
    )


def undecided_ends(case: Case) -> Finding | None:
    """All waiting is at the beginning of epochs, which are too short to show what the workers can do besides."""
    stall, share = stalled(case.chosen), stalling_boundary_ratio(case)
    if stall is None or not share or not is_all_beginning(case):
        return None
    return Finding(
        rule="undecided",
        severity="advice",
        title="Undecided between epoch-boundary and loader-bound",
        detail=f"The device waited {stall:.1%} of the time, {share:.1%} while an epoch's first batches were made: "
        "because an epoch begins, or because every batch takes that long. So short epochs do not tell.",
        action=f"{shorten_ends(case.chosen) or 'Make epochs longer.'} Then probe again.",
        evidence=(STALL.evidence(stall), plain("boundary_ratio", share)),
        confidence="low",
        confirm="What the device waits for within longer epochs is the workers' speed.",
        worth_per_s=worth_of_feeding(case, case.chosen),
        between=("epoch-boundary", "loader-bound"),
    )


def undecided_hand_over(case: Case) -> Finding | None:
    """The workers could make far more than the device takes, and yet it waits: what lies between was not seen."""
    stall, capacity = stalled(case.chosen), capacity_per_s(case.chosen)
    if stall is None or capacity is None or not are_fast_enough(case) or undecided_host(case) is not None:
        return None
    return Finding(
        rule="undecided",
        severity="advice",
        title="Undecided between shallow-prefetch and main-process-bound",
        detail=f"The device waited {stall:.1%} of the time, though the workers could make {capacity:.4g} samples/s: "
        "their batches are late now and then, or the main process takes them too slowly.",
        action="Probe with twice the prefetch_factor in --baseline; look at the main process with py-spy top --pid.",
        evidence=(STALL.evidence(stall), plain("worker_capacity_per_s", capacity, "samples/s")),
        confidence="low",
        confirm="The device waits less with the longer queue, or the main process is busy all the time.",
        worth_per_s=worth_of_feeding(case, case.chosen),
        between=("shallow-prefetch", "main-process-bound"),
    )


def undecided_host(case: Case) -> Finding | None:
    """The device waits, but not for batches: the host came late with work although it had the data."""
    trial, stall = case.chosen, stalled(case.chosen)
    measured = trial.measurement
    if stall is None or measured is None or trial.settings.num_workers == 0:
        return None
    stalled_s = stall * measured.duration_s
    waited_s = sum(window.data_wait_s for window in measured.windows)
    if waited_s <= 0 or waited_s >= HOST_WAITS.value * stalled_s:
        return None
    return Finding(
        rule="undecided",
        severity="advice",
        title="Undecided between synchronising-step and main-process-bound",
        detail=f"The device was idle {stall:.1%} of the time, but the loop waited for batches only "
        f"{waited_s / measured.duration_s:.1%}: the host is busy between the steps, or waits for the device.",
        action='Run a step under torch.cuda.set_sync_debug_mode("warn"), and the loop under py-spy.',
        evidence=(STALL.evidence(stall), plain("data_wait_ratio", waited_s / measured.duration_s)),
        confidence="low",
        worth_per_s=worth_of_feeding(case, trial),
        between=("synchronising-step", "main-process-bound"),
    )


def undecided_step(case: Case) -> Finding | None:
    """The steps do not wait and yet take longer than alone: something slows the step itself."""
    trial, stall = case.chosen, stall_ratio(case.chosen)
    alone = resident_trials(case).get(trial.settings.batch_size)
    if stall is None or stall > STALL.value or alone is None or not alone.rate_per_s or not trial.rate_per_s:
        return None
    factor = alone.rate_per_s * (1.0 - stall) / trial.rate_per_s
    is_disturbed = taken_cores(case, trial) >= FOREIGN.value * case.limits.usable_cores  # then that is its cause
    if factor < INFLATED.value or delayed_ratio(trial) is not None or is_disturbed:
        return None
    return Finding(
        rule="undecided",
        severity="advice",
        title="Undecided between thread-oversubscription and foreign-load",
        detail=f"The device waits only {stall:.1%} of the time, and yet a step takes {factor:.2f} times as long as on "
        f"a batch that lies there ({samples_per_batch(trial):g} samples).",
        action="Probe again with OMP_NUM_THREADS=1, and on an idle machine.",
        evidence=(STALL.evidence(stall), INFLATED.evidence(factor)),
        confidence="low",
        worth_per_s=alone.rate_per_s - trial.rate_per_s,
        between=("thread-oversubscription", "foreign-load"),
    )
