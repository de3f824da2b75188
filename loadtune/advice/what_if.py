"""What would one change win at most? Bounds from measured ceilings: decoding, memory, storage, cores, device. Pure.

Each takes one limit away and keeps the others as measured: the device alone, the workers' own time, the cores. Nothing
takes the place of what is gone, so the truth lies at or below the bound.
"""

from dataclasses import dataclass

from loadtune.advice.case import Case, capacity_per_s, data_wait_s, launch_s, step_times, used_cores, worker_times
from loadtune.advice.rules.speaking import has_idle_cores, stalled
from loadtune.advice.worth import cores_rate_per_s, device_rate_per_s, samples_per_batch
from loadtune.records.measurement import WorkerTimes
from loadtune.records.report import WhatIf

DOUBLE = 2.0
"""How many times as fast "twice as fast" is."""
UNTIMED = "the workers' time was not measured"


@dataclass(frozen=True, slots=True)
class _Limits:
    """What holds the rate down today, in samples a second."""

    rate: float
    device: float
    loader: float | None
    """What the loader delivers at most; None where it was never the limit, and its own speed was not measured."""

    def bound(self, change: str, loader: float | None, device: float | None = None, reason: str = "") -> WhatIf:
        """Return the least of the limits after the change, at least today's rate."""
        known = [self.device if device is None else device] + ([] if loader is None else [loader])
        return WhatIf(change=change, bound_rate_per_s=max(self.rate, min(known)), reason=reason or None)


def compute_what_ifs(case: Case) -> tuple[WhatIf, ...]:
    """Return a bound for each change; without a device's rate there is none."""
    trial = case.chosen
    device, rate = device_rate_per_s(case, trial), trial.rate_per_s
    if device is None or rate is None:
        return ()
    loader = _loader_rate_per_s(case)
    if stalled(trial) is not None:  # uneven batches let workers deliver less than they could: their mean is the limit
        loader = max(rate, capacity_per_s(trial) or 0.0)
    limits = _Limits(rate, device, loader)
    return (*_faster_samples(case, limits), _more_cores(case, limits), _faster_device(case, limits))


def _loader_rate_per_s(case: Case) -> float | None:
    """Return what the loader could deliver: alone at this worker count, or by the workers' own time."""
    own = case.chosen.settings
    alone = [
        each.rate_per_s
        for each in case.others
        if each.role == "loader" and each.rate_per_s and each.settings.num_workers == own.num_workers
    ]
    return alone[-1] if alone else capacity_per_s(case.chosen)


def _faster_samples(case: Case, limits: _Limits) -> tuple[WhatIf, ...]:
    """Return the bounds of changes that make a sample cheaper in its worker."""
    times = worker_times(case.chosen)
    names = ("decode twice as fast", "data in RAM", "storage twice as fast")
    blocked = None if times is None else times.blocked_s_per_sample
    if times is None or blocked is None or limits.loader is None:
        return tuple(WhatIf(change=name, reason=UNTIMED) for name in names)
    computing = times.busy_s_per_sample - blocked  # waiting for a core shrinks with it at most in proportion
    saved = (computing * (1 - 1 / DOUBLE), blocked, blocked * (1 - 1 / DOUBLE))
    cores = cores_rate_per_s(case)
    found = []
    for name, seconds in zip(names, saved, strict=True):
        faster = limits.loader * _factor(times, seconds)
        if name != names[0] and cores is not None:
            faster = min(faster, max(cores, limits.loader))
        found.append(limits.bound(name, faster))
    return tuple(found)


def _factor(times: WorkerTimes, saved_s: float) -> float:
    """Return how many times as fast a worker is that saves so much a sample; a hundredth of the time is always left."""
    return times.busy_s_per_sample / max(0.01 * times.busy_s_per_sample, times.busy_s_per_sample - saved_s)


def _more_cores(case: Case, limits: _Limits) -> WhatIf:
    """Return the bound of twice the cores: in proportion where they are used up, else only waiting for a core ends."""
    more = max(1, round(case.limits.usable_cores))
    name, cores = f"{more} more cores", used_cores(case.chosen)
    if cores is None or limits.loader is None:
        return WhatIf(change=name, reason="the cores in use, or the loader's own rate, were not measured")
    if not has_idle_cores(case, case.chosen):
        grown = limits.loader * (case.limits.usable_cores + more) / case.limits.usable_cores
        return limits.bound(name, grown, reason="with as many more workers")
    times = worker_times(case.chosen)
    delayed = None if times is None else times.delayed_s_per_sample
    faster = limits.loader if times is None or delayed is None else limits.loader * _factor(times, delayed)
    return limits.bound(name, faster, reason="cores are idle today")


def _faster_device(case: Case, limits: _Limits) -> WhatIf:
    """Return the bound of computing in half the time: gaps, copies and the host's launches stay.

    Without workers, host and device take turns as far as the host does not run ahead: the waiting stays as well, and
    no batch takes less than its own loading and launching.
    """
    name, times = "a GPU twice as fast", step_times(case.chosen)
    if times is None:
        return WhatIf(change=name, reason="the steps were not decomposed")
    launch = launch_s(case, case.chosen) or 0.0  # not known, it bounds nothing
    step_s = max(times.gap_s + times.copy_s + times.compute_s / DOUBLE, launch)
    if step_s <= 0:
        return WhatIf(change=name, reason="a step takes no time")
    if case.chosen.settings.num_workers == 0:
        step_s += times.stall_s
        host_s = data_wait_s(case.chosen) + launch
        return limits.bound(name, None, device=samples_per_batch(case.chosen) / max(step_s, host_s))
    # The rate alone was seen in another trial, so its half of the gain counts for it as well.
    gained = max(times.device_s / step_s, 1.0)
    reason = "" if limits.loader is not None else "the loader's own limit was not measured"
    fastest = max(limits.device * gained, samples_per_batch(case.chosen) / step_s)
    return limits.bound(name, limits.loader, device=fastest, reason=reason)
