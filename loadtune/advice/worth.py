"""What could fixing one cause win at most? Bounds from measured ceilings, in samples a second: no forecasts. Pure.

A bound assumes that the cause is gone, that nothing takes its place, and that only what was measured as another limit
still holds. So the truth lies at or below it.
"""

from loadtune.advice.case import Case, resident_trials, step_times
from loadtune.records.measurement import TrialResult


def samples_per_batch(trial: TrialResult) -> float:
    """Return the mean samples of a batch; 0 where nothing was measured."""
    windows = () if trial.measurement is None else trial.measurement.windows
    batches = sum(window.batches for window in windows)
    return sum(window.samples for window in windows) / batches if batches else 0.0


def device_rate_per_s(case: Case, trial: TrialResult) -> float | None:
    """Return the most that the device takes at this batch size: alone, or as in the loop if that is more."""
    known = []
    alone = resident_trials(case).get(trial.settings.batch_size)
    if alone is not None and alone.rate_per_s is not None:
        known.append(alone.rate_per_s)
    times = step_times(trial)
    if times is not None and times.device_s > 0:
        known.append(samples_per_batch(trial) / times.device_s)
    return max(known, default=None)


def cores_rate_per_s(case: Case) -> float | None:
    """Return the samples a second that the usable cores can compute, main process included; None where not measured."""
    measured = case.chosen.measurement
    cost = None if measured is None else measured.worker
    if measured is None or cost is None:
        return None
    cpu_s = cost.cpu_s_per_sample + (measured.main_cpu_s_per_sample or 0.0)
    return case.limits.usable_cores / cpu_s if cpu_s > 0 else None


def worth_of_feeding(case: Case, trial: TrialResult) -> float | None:
    """Return what a loader that never lets the device wait would win: up to the device's own rate."""
    device, rate = device_rate_per_s(case, trial), trial.rate_per_s
    return None if device is None or rate is None else max(0.0, device - rate)


def worth_of_loader_speed(case: Case, trial: TrialResult, factor: float) -> float | None:
    """Return what a loader that is `factor` times as fast would win, where the loader is the limit.

    Raises:
        ValueError: The factor is below 1.
    """
    if not factor >= 1:
        raise ValueError(f"a loader does not win by a factor of {factor}")
    whole, rate = worth_of_feeding(case, trial), trial.rate_per_s
    return None if whole is None or rate is None else min(whole, rate * (factor - 1.0))


def worth_of_step_time(trial: TrialResult, saved_s: float) -> float | None:
    """Return what so many seconds less a batch would win, where the device's own timeline is the limit.

    Args:
        trial: Whose device hardly waits for data.
        saved_s: Seconds a batch; cut to what the batch takes, of which a tenth is always left.
    """
    measured, rate = trial.measurement, trial.rate_per_s
    if measured is None or not rate:
        return None
    batch_s = samples_per_batch(trial) / rate
    left_s = max(0.1 * batch_s, batch_s - max(0.0, saved_s))
    return max(0.0, samples_per_batch(trial) / left_s - rate)


def worth_of_stalled_share(case: Case, trial: TrialResult, lost_ratio: float) -> float | None:
    """Return what it would win to get back a share of the time that the loader lost: at most what feeding would win."""
    share, whole = worth_of_share(trial, lost_ratio), worth_of_feeding(case, trial)
    return None if share is None or whole is None else min(share, whole)


def worth_of_share(trial: TrialResult, lost_ratio: float) -> float | None:
    """Return what it would win to get a lost share of the time back: X / (1 - share) - X; the share is cut at 0.9."""
    if not trial.rate_per_s:
        return None
    ratio = min(0.9, max(0.0, lost_ratio))
    return trial.rate_per_s * ratio / (1.0 - ratio)
