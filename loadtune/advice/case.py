"""What is the evidence that the rules judge, and how is it read?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtune.records.measurement import TrialResult
from loadtune.records.resources import HostLimits, ResourceTrace
from loadtune.records.settings import DeviceKind, Optimizer
from loadtune.schedule.batch_growth import NoiseScaleEstimate

UTILISATION_SAMPLES_MIN = 12
"""Two seconds of NVML's six samples a second; percentiles of fewer are single samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The evidence bundle: two trials, the machine's limits, and the run that the advice is for."""

    chosen: TrialResult
    baseline: TrialResult | None
    limits: HostLimits
    device: DeviceKind
    sample_count: int | None = None
    optimizer: Optimizer = "sgd"
    noise_scale: NoiseScaleEstimate | None = None
    world_size: int = 1
    """Ranks that train together."""

    @property
    def trials(self) -> tuple[TrialResult, ...]:
        """The trials at hand."""
        return (self.chosen,) if self.baseline is None else (self.chosen, self.baseline)


def describe(trial: TrialResult) -> str:
    """Name a trial's point of the grid."""
    return f"num_workers={trial.settings.num_workers}, batch_size={trial.settings.batch_size}"


def stall_ratio(trial: TrialResult) -> float | None:
    """Return the share of time that the device waited for data; None where it was not decomposed."""
    return None if trial.measurement is None else trial.measurement.stall_ratio


def used_cores(trial: TrialResult) -> float | None:
    """Return the cores that workers and main process used together: what is left is what more workers could use."""
    trace = trial.trace
    if trace is None or trace.mean_main_cores is None:
        return None
    if trace.mean_worker_cores is None:
        return None if trial.settings.num_workers else trace.mean_main_cores
    return trace.mean_worker_cores + trace.mean_main_cores


def miss_ratio(trial: TrialResult) -> float:
    """Return the miss ratio; 0 where unknown, which accuses nobody."""
    return trial.trace.miss_ratio or 0.0 if trial.trace is not None else 0.0


def utilisation_percentiles(trial: TrialResult) -> tuple[float, float] | None:
    """Return the 5th and 95th percentile of GPU utilisation; None with too few samples."""
    samples = sorted(_measured_utilisation(trial.trace)) if trial.trace is not None else []
    if len(samples) < UTILISATION_SAMPLES_MIN:
        return None
    return _percentile(samples, 0.05), _percentile(samples, 0.95)


def _measured_utilisation(trace: ResourceTrace) -> list[float]:
    """Return the samples taken while measuring: those of start and warm-up would look like an idle GPU."""
    begin_s, end_s = trace.measuring_s or (-math.inf, math.inf)
    return [sample.utilisation_ratio for sample in trace.gpu if begin_s <= sample.at_s <= end_s]


def _percentile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
