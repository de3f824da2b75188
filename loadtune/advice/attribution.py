"""Where does a step's time go? The device's own timeline, split further by what else was measured; it sums to 1. Pure.

The method of DS-Analyzer (Mohan et al., VLDB 2021): differences between runs. The device alone on a resident batch says
what computing takes; what is more beside the loader is contention. The waiting is split by what the workers did with
their time: a loader that limits delivers a batch each busy time / num_workers, and every part of that time adds to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import stdev

from loadtune.advice.case import Case, StepTimes, late_s, resident_trials, step_times, worker_times
from loadtune.advice.rules.gpu import device_line
from loadtune.advice.rules.loader import main_process_bound
from loadtune.advice.rules.starting import boundary_ratio, is_all_beginning
from loadtune.advice.what_if import compute_what_ifs
from loadtune.advice.worth import samples_per_batch
from loadtune.records.measurement import Window
from loadtune.records.report import Attribution, Share, Where

SHARE_MIN = 1e-9
"""Parts below are left out: nothing of them was measured."""

IN_PROPORTION = "the device's waiting, in proportion to the workers' time"
ENDS_TO_COME = "first batch after a start, spread over an epoch"
ENDS_SEEN = "the device's waiting after epochs ended, until the queue could be full again"
OFF_CORES = f"{IN_PROPORTION}: all of it off the cores, be it storage, a network, a lock or sleep"


@dataclass(slots=True)
class _Parts:
    """Seconds a batch by where they go, with half-widths where they are known to be open, and what they rest on."""

    seconds: dict[Where, float] = field(default_factory=dict)
    open_s: dict[Where, float] = field(default_factory=dict)
    basis: dict[Where, str] = field(default_factory=dict)

    def add(self, where: Where, seconds: float, basis: str, open_s: float = 0.0) -> None:
        """Add to a part; the first basis stays."""
        if seconds <= 0:
            return
        self.seconds[where] = self.seconds.get(where, 0.0) + seconds
        self.open_s[where] = self.open_s.get(where, 0.0) + open_s
        self.basis.setdefault(where, basis)


def attribute(case: Case) -> Attribution | None:
    """Return where the time of the chosen setting's steps goes, and what changes could win at most.

    None where the trial's steps were not decomposed.
    """
    trial, times = case.chosen, step_times(case.chosen)
    if times is None or trial.measurement is None or trial.rate_per_s is None or times.whole_s <= 0:
        return None
    parts, notes = _Parts(), list[str]()
    _split_device(case, times, parts, notes)
    boundary_s = _boundary_s(case)
    if boundary_s is None:
        notes.append("The epoch boundary was not measured, and is left out.")
    # Where the data set ends epochs by itself, their ends are a part of the waiting that was seen.
    is_within = trial.measurement.epoch_samples is not None
    within_s = 0.0 if is_all_beginning(case) else min(times.stall_s, (boundary_ratio(case) or 0.0) * times.whole_s)
    if is_all_beginning(case):
        notes.append("Epochs are too short to tell their ends from workers that are slow.")
    ended_s = within_s if is_within else boundary_s or 0.0
    parts.add("epoch boundary", ended_s, ENDS_SEEN if is_within else ENDS_TO_COME)
    _split_waiting(case, times, ended_s if is_within else 0.0, parts, notes)
    whole_s = sum(parts.seconds.values())
    shares = [
        Share(
            where=where,
            ratio=min(1.0, seconds / whole_s),
            error_ratio=_error_ratio(where, parts, trial.measurement.windows, whole_s),
            basis=parts.basis[where],
        )
        for where, seconds in parts.seconds.items()
        if seconds / whole_s > SHARE_MIN
    ]
    return Attribution(
        settings=trial.settings,
        rate_per_s=trial.rate_per_s,
        step_s=whole_s,
        shares=tuple(sorted(shares, key=lambda share: -share.ratio)),
        what_ifs=compute_what_ifs(case),
        notes=tuple(notes),
    )


def _split_device(case: Case, times: StepTimes, parts: _Parts, notes: list[str]) -> None:
    """Split what the device did: copies, launches, computing, and computing that takes longer than alone."""
    alone = resident_trials(case).get(case.chosen.settings.batch_size)
    other = None if alone is None else step_times(alone)
    slowed_s = 0.0 if other is None else max(0.0, times.compute_s - other.compute_s)
    if other is None:
        notes.append("The device was not measured alone: contention within a step is part of computing.")
    line, own_s = device_line(case), times.compute_s - slowed_s
    fixed_s = 0.0 if line is None else min(own_s, max(0.0, line.fixed_s - times.gap_s))
    if line is None:
        notes.append("One batch size only: the part of computing that is launching is not told apart.")
    parts.add("computing", own_s - fixed_s, "between two marks on the device's timeline")
    parts.add("copying", times.copy_s, "between two marks on the device's timeline")
    parts.add("launching", times.gap_s, "gaps between steps that a resident batch has too")
    parts.add("launching", fixed_s, "", open_s=fixed_s)
    parts.add("contention", slowed_s, "the same step beside the loader, less that alone")


def _split_waiting(case: Case, times: StepTimes, ended_s: float, parts: _Parts, notes: list[str]) -> None:
    """Split the device's waiting: a host that came late, one that takes too long, then the workers' time by its parts.

    `ended_s` of it is spoken for.
    """
    trial = case.chosen
    measured, workers = trial.measurement, worker_times(trial)
    if measured is None or times.stall_s <= ended_s:
        return
    host_s = min(late_s(trial, times), times.stall_s - ended_s)
    parts.add("launching", host_s, "the device idle while the host had its batch")
    left_s = times.stall_s - ended_s - host_s
    if workers is None or workers.delayed_s_per_sample is None or workers.blocked_s_per_sample is None:
        notes.append("What the workers did with their time is not known: the waiting is not split.")
        parts.add("waiting", left_s, "the device idle until a batch came")
        return
    if measured.setup is not None and (measured.setup.threads or 1) > 1:
        notes.append("The workers have several threads: reading while they compute does not count as reading.")
    busy = max(workers.busy_s_per_sample, 1e-12)
    moving = min(workers.collate_s_per_sample or 0.0, workers.cpu_s_per_sample or 0.0)
    costs: dict[Where, float] = {
        "contention": workers.delayed_s_per_sample,
        "reading": workers.blocked_s_per_sample,
        "moving": moving,
    }
    costs["preparing"] = max(0.0, busy - sum(costs.values()))
    scale = samples_per_batch(trial) / max(1, trial.settings.num_workers)
    all_s = sum(costs.values()) * scale
    if main_process_bound(case) is not None:  # workers alone would deliver every all_s: what is more is the taking
        taken_s = left_s * max(0.0, 1.0 - all_s / times.whole_s)
        parts.add("moving", taken_s, "the main process takes batches for longer than workers make them", taken_s)
        left_s -= taken_s
    for where, cost in costs.items():
        part_s, own_s = left_s * cost / (all_s / scale), cost * scale
        # At most all of it, if it takes that long; at least what the other parts together cannot explain.
        high_s, low_s = min(left_s, own_s), max(0.0, left_s - (all_s - own_s))
        open_s = max(0.0, high_s - part_s, part_s - low_s)
        parts.add(where, part_s, OFF_CORES if where == "reading" else IN_PROPORTION, open_s)


def _boundary_s(case: Case) -> float | None:
    """Return the epoch boundary's part of one batch; None where it was not measured."""
    measured = case.chosen.measurement
    samples = None if measured is None else measured.epoch_samples or case.sample_count
    if measured is None or measured.epoch_boundary_s is None or not samples:
        return None
    return measured.epoch_boundary_s * samples_per_batch(case.chosen) / samples


def _error_ratio(where: Where, parts: _Parts, windows: Sequence[Window], whole_s: float) -> float | None:
    """Return how far off a share may be: what is open, and what it varied by from window to window."""
    spread = _spread_ratio(where, windows)
    return None if spread is None else min(1.0, parts.open_s[where] / whole_s + spread)


def _spread_ratio(where: Where, windows: Sequence[Window]) -> float | None:
    """Return the standard deviation over windows of the share that a part lies in; None with under two windows."""
    if len(windows) < 2:
        return None
    seconds = {"computing": "compute_s", "copying": "copy_s"}.get(where, "device_idle_s")
    return stdev((getattr(window, seconds) or 0.0) / window.duration_s for window in windows)
