"""What do starts cost? An epoch's boundary, and workers that take seconds to begin."""

from loadtune.advice.case import (
    Case,
    capacity_per_s,
    describe,
    epoch_time_s,
    stall_ratio,
    with_workers,
    worker_setup,
)
from loadtune.advice.rules.speaking import plain
from loadtune.advice.thresholds import BOUNDARY, MOST, START
from loadtune.advice.worth import device_rate_per_s
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Finding


def boundary_ratio(case: Case) -> float | None:
    """Return the share of a real epoch that its end takes; None where it was not measured."""
    measurement, whole_s = case.chosen.measurement, epoch_time_s(case, case.chosen)
    if measurement is None or measurement.epoch_boundary_s is None or not whole_s:
        return None
    share = min(1.0, measurement.epoch_boundary_s / whole_s)
    stall = stall_ratio(case.chosen)
    if not measurement.epoch_samples or stall is None:
        return share
    # It ends within the windows. What the loader could not have made in between is no matter of ends, and queued steps
    # hid what the device did not wait for.
    rates = [device_rate_per_s(case, case.chosen), capacity_per_s(case.chosen)]
    steady = min((rate for rate in rates if rate), default=None)
    fed = 1.0 if steady is None else max(0.0, 1.0 - (case.chosen.rate_per_s or 0.0) / steady)
    return min(share, stall, fed)


def stalling_boundary_ratio(case: Case) -> float | None:
    """Return the share of the time that ends of epochs can have stalled the device: none where the trial saw no end."""
    seen = case.chosen.measurement is not None and case.chosen.measurement.epoch_samples
    return boundary_ratio(case) if seen else 0.0


def is_all_beginning(case: Case) -> bool:
    """Say whether epochs end before a batch comes that could lie ready, with workers whose own speed is not known.

    Then all waiting looks like the end of an epoch, that for slow workers too.
    """
    measurement, settings = case.chosen.measurement, case.chosen.settings
    if measurement is None or not measurement.epoch_samples or capacity_per_s(case.chosen) is not None:
        return False
    batches = measurement.epoch_samples / settings.batch_size
    return batches < max(1, settings.batches_in_flight) + max(1, settings.num_workers)


def epoch_boundary(case: Case) -> Finding | None:
    """Starting the workers anew each epoch takes a share of a real epoch."""
    measurement, rate, whole_s = case.chosen.measurement, case.chosen.rate_per_s, epoch_time_s(case, case.chosen)
    share = boundary_ratio(case)
    if measurement is None or not rate or whole_s is None or share is None or share < BOUNDARY.value:
        return None
    if is_all_beginning(case):
        return None
    boundary_s, samples = share * whole_s, measurement.epoch_samples or case.sample_count
    baseline_s = _baseline_time_s(case, samples)
    is_slower = baseline_s is not None and baseline_s < whole_s
    told = f"An epoch of {samples} samples takes {whole_s - boundary_s:.3g} s, its end {boundary_s:.3g} s."
    if is_slower:
        told += f" With {describe(case.baseline or case.chosen)} it takes {baseline_s:.3g} s in all."
    title = f"The end of an epoch takes {share:.0%} of it"
    return Finding(
        rule="epoch-boundary",
        severity="warning" if is_slower else "advice",
        title="Epochs are so short that starting the workers costs more than they win" if is_slower else title,
        detail=told,
        action=shorten_ends(case.chosen),
        evidence=(BOUNDARY.evidence(share),),
        confirm="The time between the last batch of an epoch and the first of the next.",
        worth_per_s=_worth_of_ends(case, rate, share),
    )


def _worth_of_ends(case: Case, rate: float, share: float) -> float:
    """Return what a share of epochs is worth: where ends are in the rate it rises by them, else an epoch's does."""
    measurement = case.chosen.measurement
    is_within = measurement is not None and bool(measurement.epoch_samples)
    return rate * share / (1.0 - share) if is_within and share < 1.0 else rate * share


def _baseline_time_s(case: Case, samples: int | None) -> float | None:
    """Return the baseline's time for as many samples: an iterable data set may yield others with other workers."""
    measurement = None if case.baseline is None else case.baseline.measurement
    whole_s = None if case.baseline is None else epoch_time_s(case, case.baseline)
    own = None if measurement is None else measurement.epoch_samples or case.sample_count
    return None if whole_s is None or not own else whole_s * (samples or own) / own


def shorten_ends(trial: TrialResult) -> str | None:
    """Return what makes an epoch's end cost less; None where nothing is known to.

    Workers that last save their start, and nothing of what the data set does before its first sample.
    """
    settings, measurement, setup = trial.settings, trial.measurement, worker_setup(trial)
    can_keep = settings.num_workers > 0 and not settings.persistent_workers
    if measurement is None or not measurement.epoch_samples:
        return "Set persistent_workers=True." if can_keep else None
    longer = "Let the data set yield more before it ends"
    if not settings.num_workers:
        return f"{longer}, and do less before its first sample, such as opening files anew."
    if not can_keep:
        return f"{longer}: each end empties the queues."
    start_s = None if setup is None else setup.start_s
    if start_s is None or start_s >= MOST.value * (measurement.epoch_boundary_s or 0.0):
        return f"Set persistent_workers=True. {longer}: each end empties the queues, too."
    return f"{longer}, and do less before its first sample. persistent_workers=True saves {start_s:.2g} s of each end."


def _start_ratio(case: Case, trial: TrialResult, start_s: float) -> float | None:
    """Return the share of a real epoch that the workers' start takes; None where they last, or it is not known."""
    rate, measurement = case.chosen.rate_per_s, trial.measurement
    if trial is not case.chosen or trial.settings.persistent_workers or measurement is None or not rate:
        return None
    if measurement.epoch_samples:  # starts are a part of the rate, and of the time that the device waited
        return min(start_s * rate / measurement.epoch_samples, stalling_boundary_ratio(case) or 0.0)
    return start_s / (start_s + case.sample_count / rate) if case.sample_count else None


def slow_start(case: Case) -> Finding | None:
    """Workers take seconds to begin: a new interpreter that imports torch, or a large data set that is pickled."""
    trial, rate = with_workers(case), case.chosen.rate_per_s
    setup = None if trial is None else worker_setup(trial)
    if trial is None or setup is None or setup.start_s is None or setup.start_s < START.value:
        return None
    persists, share = trial.settings.persistent_workers, _start_ratio(case, trial, setup.start_s)
    ended = boundary_ratio(case) or 0.0
    is_material = share is not None and share >= max(BOUNDARY.value, MOST.value * ended)  # else the end is the finding
    is_fork = setup.start_method == "fork"
    cause = (
        "By fork, which copies nothing: worker_init_fn, or the first access, takes that long."
        if is_fork
        else f"By {setup.start_method}, each imports torch anew and gets the data set pickled."
    )
    action = "Keep the data set light: paths instead of contents, files opened in the worker"
    if not persists:
        action += "; and set persistent_workers=True, so that they start once"
    return Finding(
        rule="slow-start",
        severity="advice" if is_material else "info",
        title=f"The workers take {setup.start_s:.1f} s to start",
        detail=f"{cause} It happens {'once a run' if persists else 'every epoch'}.",
        action=f"{action}." if is_material or not is_fork else None,
        evidence=(
            START.evidence(setup.start_s),
            *(() if share is None else (BOUNDARY.evidence(share),)),
            plain("num_workers", float(trial.settings.num_workers)),
        ),
        confirm='The start with multiprocessing_context="fork" takes a tenth of it.' if not is_fork else None,
        worth_per_s=None if share is None or rate is None else _worth_of_ends(case, rate, share),
    )
