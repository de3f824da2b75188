"""What did a leg show? Its steps, stamps and times as one Measurement; nothing is measured here."""

from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_start_method
from statistics import fmean, median, stdev

import msgspec
import torch
from torch.utils.data import IterableDataset

from loadtune.measure.accelerator import Step, busy_spans, stall_ratio
from loadtune.measure.leg import Leg
from loadtune.measure.loader import Stamp
from loadtune.measure.workers_seen import summarise_setup, summarise_times
from loadtune.records.measurement import BadSample, Measurement, Startup, Window, WorkerCost, WorkerSetup
from loadtune.stats import SAME_RATIO, corrected_rate_per_s, queue_bias_ratio

STALLED_STEP = 0.05
"""Share of a step that the device may wait before it without the step counting as stalled; the 5 % of the stall."""
BAD_SAMPLES_LISTED = 100
"""Broken samples named in one trial. The count of a data set full of them would fill the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the loop noted."""

    run_steps: list[Step]
    windows: list[Window]
    taken: list[tuple[Stamp | None, float]]
    """(stamp, time.monotonic() when it was taken) of every batch, those taken after the last window too."""
    idle_reference_s: float
    first_step: int
    batch_bytes: int | None
    main_cpu_s: float
    process_s: float
    device_warm_up_s: float
    first_batch_s: float
    loader_began_s: float
    notes: list[str]
    synchronisations: int | None = None
    epoch_starts: tuple[int, ...] = ()
    """Positions of the steps whose batches began an epoch, where the data set itself had ended one."""


def summarise(leg: Leg, evidence: Evidence) -> Measurement:
    """Return the measurement."""
    windows = _with_queues(evidence)
    steps = _measured_steps(evidence)
    trains = leg.spec.consume == "device"
    durations_s = [step.compute_s for step in steps]
    samples = sum(window.samples for window in windows)
    return Measurement(
        windows=tuple(
            msgspec.structs.replace(window, started_s=window.started_s - evidence.loader_began_s) for window in windows
        ),
        startup=Startup(
            process_s=evidence.process_s,
            build_s=leg.build_s,
            device_warm_up_s=evidence.device_warm_up_s,
            first_batch_s=evidence.first_batch_s,
            loader_warm_up_s=max(0.0, windows[0].started_s - evidence.loader_began_s - evidence.first_batch_s),
        ),
        epoch_boundary_s=_epoch_boundary_s(leg, evidence, windows),
        epoch_samples=_epoch_samples(evidence),
        idle_reference_s=evidence.idle_reference_s,
        step_s=median(durations_s) if trains else None,
        step_spread_s=stdev(durations_s) if trains and len(durations_s) > 1 else None,
        copy_s=median(step.copy_s for step in steps) if trains else None,
        launch_cpu_s=min(step.host_cpu_s for step in steps) if trains else None,
        stall_ratio=stall_ratio(steps, evidence.idle_reference_s) if trains else None,
        longest_batch_s=max(_worker_walls_s(evidence, windows), default=None),
        stalled_step_ratio=_stalled_step_ratio(steps, evidence.idle_reference_s) if trains else None,
        worker=_worker_cost(leg, evidence, windows),
        setup=_worker_setup(leg, evidence),
        main_threads=torch.get_num_threads(),
        synchronisations=evidence.synchronisations,
        main_cpu_s_per_sample=evidence.main_cpu_s / samples if samples else None,
        batch_bytes=evidence.batch_bytes,
        device_memory_bytes=leg.accelerator.peak_memory_bytes() if trains else None,
        samples_seen=sum(step.samples for step in evidence.run_steps),
        bad_samples=_bad_samples(evidence)[:BAD_SAMPLES_LISTED],
        bad_sample_count=len(_bad_samples(evidence)),
        ignored_label_ratio=_ignored_label_ratio(evidence),
        busy_spans=busy_spans(steps) if trains and leg.spec.device.kind == "replay" else (),
        device_uuid=leg.accelerator.uuid,
        notes=(*evidence.notes, *_queue_note(windows)),
    )


def count_ready(taken: list[tuple[Stamp | None, float]], at_s: float) -> int:
    """Return the batches that were made but not yet taken at a moment."""
    made = sum(stamp is not None and stamp.finished_s <= at_s < taken_s for stamp, taken_s in taken)
    return max(0, made)


def _queue_note(windows: list[Window]) -> list[str]:
    """Say so where the queue gave more of the rate than may be claimed."""
    given = windows[0].queue_before - windows[-1].queue_after
    steady = corrected_rate_per_s(windows)
    if given <= 0 or queue_bias_ratio(windows) <= SAME_RATIO / 2 or steady is None:
        return []
    return [
        f"The prefetch queue fell by {given} batches while measuring: the loader alone kept up {steady:.4g} samples/s."
    ]


def _with_queues(evidence: Evidence) -> list[Window]:
    return [
        msgspec.structs.replace(
            window,
            queue_before=count_ready(evidence.taken, window.started_s),
            queue_after=count_ready(evidence.taken, window.started_s + window.duration_s),
        )
        for window in evidence.windows
    ]


def _measured_steps(evidence: Evidence) -> list[Step]:
    """Return the steps of the windows, and the one that ended as the first window began."""
    last_s = evidence.windows[-1].started_s + evidence.windows[-1].duration_s
    return [step for step in evidence.run_steps[evidence.first_step :] if step.finished_s <= last_s]


def _epoch_boundary_s(leg: Leg, evidence: Evidence, windows: list[Window]) -> float | None:
    """Return what starting the iterator anew adds to the steady state.

    As the device saw it, where epochs began while it was watched; else by the loader's own first batch. Then it is None
    for persistent workers, whose refill was not seen, and of an iterable data set without workers. Without workers
    nothing else is started anew: what makes the first batch late there, such as files that are opened, happens once.
    None where no loader of the user's runs.
    """
    settings = leg.spec.settings
    if leg.spec.feed != "loader":
        return None
    seen_s = _seen_boundary_s(leg, evidence)
    if seen_s is not None or settings.persistent_workers:
        return seen_s
    if not settings.num_workers:
        is_iterable = leg.loader is not None and isinstance(leg.loader.dataset, IterableDataset)
        return None if is_iterable else 0.0
    batch_s = sum(window.duration_s for window in windows) / sum(window.batches for window in windows)
    return max(0.0, evidence.first_batch_s - batch_s)


def _starts_seen(evidence: Evidence) -> list[int]:
    """Return the steps that began an epoch among those measured."""
    last = evidence.first_step + len(_measured_steps(evidence)) - 1
    return [start for start in evidence.epoch_starts if evidence.first_step < start <= last]


def _epoch_samples(evidence: Evidence) -> int | None:
    """Return the samples of the last epoch that was seen to end; None where none ended among the measured steps."""
    begun = _starts_seen(evidence)
    if not begun:
        return None
    before = max((start for start in evidence.epoch_starts if start < begun[-1]), default=0)
    return sum(step.samples for step in evidence.run_steps[before : begun[-1]])


def _seen_boundary_s(leg: Leg, evidence: Evidence) -> float | None:
    """Return how much longer the device waited after an epoch's end until the queue could be full again.

    Each of an epoch's first batches counts by what it waited beyond a later one. Those come in bursts of num_workers,
    so whole bursts of them count; where epochs are too short to have any, the gap that a resident batch has too. None
    where no epoch began among the measured steps.
    """
    begun = _starts_seen(evidence)
    if not begun or leg.spec.consume != "device":
        return None
    waits_s = {number: step.idle_s for number, step in enumerate(evidence.run_steps)}
    measured = range(evidence.first_step + 1, evidence.first_step + len(_measured_steps(evidence)))
    refill, burst = max(1, leg.spec.settings.batches_in_flight), max(1, leg.spec.settings.num_workers)
    later_waits_s = list[float]()
    for start, end in pairwise((0, *evidence.epoch_starts, measured.stop)):
        own = range(max(start + refill, measured.start), min(end, measured.stop))
        later_waits_s += [waits_s[number] for number in own[: len(own) // burst * burst]]
    later_s = fmean(later_waits_s or [evidence.idle_reference_s])
    early = {start + behind for start in begun for behind in range(refill)} & set(measured)
    return max(0.0, sum(waits_s[number] - later_s for number in early) / len(begun))


def _worker_cost(leg: Leg, evidence: Evidence, windows: list[Window]) -> WorkerCost | None:
    """Return what a sample costs where it is made; None without workers."""
    per_batch = evidence.windows[0].samples / evidence.windows[0].batches
    stamps = _worker_stamps(evidence, windows)
    cpu_s = [stamp.cpu_s for stamp in stamps if stamp.cpu_s is not None]
    if not cpu_s:  # each worker made one batch an epoch, and none after another
        cpu_s = [stamp.work.process_cpu_s for stamp in stamps if stamp.work is not None]
    wall_s = _worker_walls_s(evidence, windows)
    if not cpu_s or not per_batch:
        return None
    never_waits = leg.spec.consume == "nothing"
    return WorkerCost(
        cpu_s_per_sample=fmean(cpu_s) / per_batch,
        wall_s_per_sample=fmean(wall_s) / per_batch if never_waits and wall_s else None,
        sample_bytes=None if evidence.batch_bytes is None else round(evidence.batch_bytes / per_batch),
        wall_spread_ratio=stdev(wall_s) / fmean(wall_s) if never_waits and len(wall_s) > 2 and fmean(wall_s) else None,
        times=summarise_times(stamps, per_batch),
    )


def _worker_setup(leg: Leg, evidence: Evidence) -> WorkerSetup | None:
    """Return what the workers are; None where there are none."""
    if leg.loader is None or not leg.spec.settings.num_workers:
        return None
    context = leg.loader.multiprocessing_context
    method = get_start_method() if context is None else context.get_start_method()
    stamps = [stamp for stamp, _ in evidence.taken if stamp is not None]
    return summarise_setup(stamps, leg.spec.settings.num_workers, method, evidence.loader_began_s)


def _stalled_step_ratio(steps: list[Step], idle_reference_s: float) -> float | None:
    """Return the share of steps before which the device waited longer than STALLED_STEP of a step."""
    if len(steps) < 2:
        return None
    limit_s = STALLED_STEP * median(step.copy_s + step.compute_s for step in steps)
    return fmean(step.idle_s - idle_reference_s > limit_s for step in steps[1:])


def _worker_stamps(evidence: Evidence, windows: list[Window]) -> list[Stamp]:
    """Return what workers stamped since the first window began."""
    stamps = [stamp for stamp, _ in evidence.taken if stamp is not None and stamp.worker is not None]
    return [stamp for stamp in stamps if stamp.finished_s >= windows[0].started_s]


def _worker_walls_s(evidence: Evidence, windows: list[Window]) -> list[float]:
    return [stamp.wall_s for stamp in _worker_stamps(evidence, windows) if stamp.wall_s is not None]


def _bad_samples(evidence: Evidence) -> tuple[BadSample, ...]:
    found = {
        name: reason for stamp, _ in evidence.taken if stamp is not None for name, reason in stamp.faults.bad_samples
    }
    return tuple(BadSample(name=name, reason=found[name]) for name in sorted(found))


def _ignored_label_ratio(evidence: Evidence) -> float | None:
    faults = [stamp.faults for stamp, _ in evidence.taken if stamp is not None]
    seen = sum(each.pixels_seen for each in faults)
    return sum(each.pixels_ignored for each in faults) / seen if seen else None
