"""What is the evidence that the rules judge, and how is it read?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtune.advice.thresholds import BLOCKED, DELAYED, MISS
from loadtune.records.measurement import TrialResult, WorkerSetup, WorkerTimes
from loadtune.records.resources import GpuInfo, HostLimits, ResourceTrace
from loadtune.records.settings import DeviceKind, Optimizer
from loadtune.schedule.batch_growth import NoiseScaleEstimate

UTILISATION_SAMPLES_MIN = 12
"""Over two seconds of the five or six that NVML keeps a second; percentiles of fewer are single samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The evidence bundle: two trials, what else was measured, the machine's limits, and the run it is all for."""

    chosen: TrialResult
    baseline: TrialResult | None
    limits: HostLimits
    device: DeviceKind
    sample_count: int | None = None
    optimizer: Optimizer = "sgd"
    noise_scale: NoiseScaleEstimate | None = None
    world_size: int = 1
    """Ranks that train together."""
    others: tuple[TrialResult, ...] = ()
    """Every trial of the probe: the device alone, the loader alone, and other settings."""
    gpu: GpuInfo | None = None
    """The GPU that trained; None: none, or not known."""

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


def wanted_cores(case: Case, trial: TrialResult) -> float | None:
    """Return the used cores and those that workers waited for besides; None where the used ones were not read.

    The kernel's load average in the same sense: what runs and what could. Workers that fight for cores by turns leave
    some idle on average, which one more of them could not use. Workers that may not use all cores wait for others, and
    those that mostly wait for something else leave room: their waiting for a core does not count.
    """
    used, times, setup = used_cores(trial), worker_times(trial), worker_setup(trial)
    if used is None or times is None or times.delayed_s_per_sample is None:
        return used
    is_held = setup is not None and setup.cpus is not None and setup.cpus < case.limits.usable_cores
    if is_held or (blocked_ratio(trial) or 0.0) >= BLOCKED.value:
        return used
    return used + times.delayed_s_per_sample * (trial.rate_per_s or 0.0)


def main_work_s(trials: Sequence[TrialResult]) -> float:
    """Return the CPU seconds that the main process can have worked on a sample: taking it, and launching its step.

    Each is known from where it was not mixed with waiting: the loader alone, and the quickest launch. A process that
    waits for CUDA turns on its core and looks busy, which is no work: on an H100 the main process of a device-bound
    training used 0.99 cores, and launching took a fifth of that. Infinite where either is not known.
    """
    measured = [(trial, trial.measurement) for trial in trials if trial.measurement is not None]
    taking_s = taking_cpu_s(trials)
    launching = [
        m.launch_cpu_s / trial.settings.batch_size
        for trial, m in measured
        if trial.consume == "device" and trial.feed == "loader" and m.launch_cpu_s is not None
    ]
    return taking_s + min(launching) if taking_s is not None and launching else math.inf


def taking_cpu_s(trials: Sequence[TrialResult]) -> float | None:
    """Return the CPU seconds that taking a sample from a worker costs the main process; None if it never ran alone."""
    measured = [trial.measurement for trial in trials if trial.consume == "nothing" and trial.measurement is not None]
    known = [each.main_cpu_s_per_sample for each in measured if each.main_cpu_s_per_sample is not None]
    return max(known, default=None)


def main_work_cores(trial: TrialResult, trials: Sequence[TrialResult]) -> float | None:
    """Return the cores that a trial's main process worked on, what it spent turning in a wait left out.

    None where they were not read.

    Args:
        trial: Which.
        trials: All of the probe.
    """
    busy = None if trial.trace is None else trial.trace.mean_main_cores
    return None if busy is None else min(busy, main_work_s(trials) * (trial.rate_per_s or math.inf))


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Mean seconds a batch on the device's timeline; their sum is the time from batch to batch."""

    stall_s: float
    """Waiting beyond the gaps that a resident batch has too."""
    gap_s: float
    """Those gaps."""
    copy_s: float
    compute_s: float

    @property
    def whole_s(self) -> float:
        """From batch to batch."""
        return self.stall_s + self.gap_s + self.copy_s + self.compute_s

    @property
    def device_s(self) -> float:
        """What is left where the device never waits for data."""
        return self.gap_s + self.copy_s + self.compute_s


def taken_cores(case: Case, trial: TrialResult) -> float:
    """Return the cores that others, or the hypervisor, took of those that a trial could have used; at least 0."""
    trace = trial.trace
    if trace is None:
        return 0.0
    return max(0.0, (trace.mean_foreign_cores or 0.0) + (trace.mean_steal_cores or 0.0) - case.limits.spare_cores)


def step_times(trial: TrialResult) -> StepTimes | None:
    """Return where a batch's time went on the device's timeline; None where it was not decomposed."""
    measured = trial.measurement
    if measured is None or measured.stall_ratio is None:
        return None
    windows = measured.windows
    if any(window.copy_s is None or window.compute_s is None for window in windows):
        return None
    batches, whole_s = sum(window.batches for window in windows), measured.duration_s
    copy_s = sum(window.copy_s or 0.0 for window in windows) / batches
    compute_s = sum(window.compute_s or 0.0 for window in windows) / batches
    idle_s = max(0.0, whole_s / batches - copy_s - compute_s)
    stall_s = min(idle_s, measured.stall_ratio * whole_s / batches)
    return StepTimes(stall_s=stall_s, gap_s=idle_s - stall_s, copy_s=copy_s, compute_s=compute_s)


def late_s(trial: TrialResult, times: StepTimes) -> float:
    """Return the seconds a batch that the device waits while the host has its batch: neither loader nor launch gap.

    0 without workers, where the host itself is the loader, and where its waiting was not measured.
    """
    waited_s = data_wait_s(trial)
    return max(0.0, times.stall_s - waited_s) if trial.settings.num_workers and waited_s > 0 else 0.0


def launch_s(case: Case, trial: TrialResult) -> float | None:
    """Return the host's CPU seconds to queue a step: the least of all looks at this batch size.

    A host that waits for a full queue, or for a copy from ordinary memory, spins on CUDA, and that counts as CPU time.
    None where it was not measured, on a CPU, where it is the step, and where steps wait for the device itself: that is
    spun through as well, in every step.
    """
    looks = [trial, *(each for each in case.others if each.settings.batch_size == trial.settings.batch_size)]
    measured = [each.measurement for each in looks if each.measurement is not None and each.consume == "device"]
    if case.device == "cpu" or any(each.synchronisations for each in measured):
        return None
    return min((each.launch_cpu_s for each in measured if each.launch_cpu_s is not None), default=None)


def data_wait_s(trial: TrialResult) -> float:
    """Return the mean seconds a batch that the host was blocked in next(iterator); 0 where not measured."""
    windows = () if trial.measurement is None else trial.measurement.windows
    batches = sum(window.batches for window in windows)
    return sum(window.data_wait_s for window in windows) / batches if batches else 0.0


def worker_times(trial: TrialResult) -> WorkerTimes | None:
    """Return where a worker's time went; None where single samples could not be timed."""
    cost = None if trial.measurement is None else trial.measurement.worker
    return None if cost is None or not (cost.times and cost.times.busy_s_per_sample > 0) else cost.times


def epoch_time_s(case: Case, trial: TrialResult) -> float | None:
    """Return the seconds of a whole epoch with a trial's settings, its end included; None where it is not known.

    Where the data set itself ended epochs, their ends lie within the windows, and so in the rate.
    """
    measured, rate = trial.measurement, trial.rate_per_s
    if measured is None or not rate:
        return None
    if measured.epoch_samples:
        return measured.epoch_samples / rate
    if measured.epoch_boundary_s is None or not case.sample_count:
        return None
    return case.sample_count / rate + measured.epoch_boundary_s


def with_workers(case: Case, least: int = 1) -> TrialResult | None:
    """Return the chosen trial, or where it has too few workers the baseline or any other with enough; None: none told.

    What workers have in common shows there; a choice without workers may be due to it.

    Args:
        case: Whose trials to look through.
        least: Workers that make the difference.
    """
    trials = (case.chosen, *(() if case.baseline is None else (case.baseline,)), *reversed(case.others))
    known = [each for each in trials if each.settings.num_workers >= least and worker_setup(each) is not None]
    return next((each for each in known if each.consume == "device"), None)


def worker_setup(trial: TrialResult) -> WorkerSetup | None:
    """Return what the workers were; None without workers."""
    return None if trial.measurement is None else trial.measurement.setup


def delayed_ratio(trial: TrialResult) -> float | None:
    """Return the share of a worker's time in which it was ready and had no core; None where not measured."""
    times = worker_times(trial)
    if times is None or times.delayed_s_per_sample is None:
        return None
    return min(1.0, times.delayed_s_per_sample / times.busy_s_per_sample)


def blocked_ratio(trial: TrialResult) -> float | None:
    """Return the share of a worker's time in which it waited for anything but a core; None where not measured."""
    times = worker_times(trial)
    if times is None or times.blocked_s_per_sample is None:
        return None
    return min(1.0, times.blocked_s_per_sample / times.busy_s_per_sample)


def capacity_per_s(trial: TrialResult) -> float | None:
    """Return what the workers could deliver if they never waited for work; None where not measured."""
    times = worker_times(trial)
    return None if times is None else trial.settings.num_workers / times.busy_s_per_sample


def looked_capacity_per_s(case: Case) -> float | None:
    """Return what the chosen setting's workers could deliver, by all looks at workers, the loader alone included.

    Where batches are uneven a trial holds three or four long ones, and one more of them moves the mean by a quarter.
    Where workers wait for cores in one of the looks, they are not of one kind, and the chosen trial speaks alone.
    """
    own = capacity_per_s(case.chosen)
    alone = [
        each
        for each in case.others
        if each.consume == "nothing" and each.settings.batch_size == case.chosen.settings.batch_size
    ]
    looks = [case.chosen, *alone]
    costs = [times.busy_s_per_sample for each in looks if (times := worker_times(each)) is not None]
    if own is None or any((delayed_ratio(each) or 0.0) >= DELAYED.value for each in looks):
        return own
    return case.chosen.settings.num_workers / (sum(costs) / len(costs))


def spare_ratio(trial: TrialResult) -> float | None:
    """Return what the workers could deliver by what they did deliver; None where not measured."""
    capacity = capacity_per_s(trial)
    return capacity / trial.rate_per_s if capacity and trial.rate_per_s else None


def resident_trials(case: Case) -> dict[int, TrialResult]:
    """Return the trials of the device alone by batch size, the last of each."""
    return {
        each.settings.batch_size: each
        for each in case.others
        if each.feed == "resident" and each.rate_per_s is not None
    }


def throttled_periods_ratio(trace: ResourceTrace | None) -> float | None:
    """Return the share of quota periods that were held back while measuring; None without a quota."""
    if trace is None:
        return None
    begin_s, end_s = trace.measuring_s or (-math.inf, math.inf)
    seen = [each.throttled_ratio for each in trace.host if begin_s < each.at_s <= end_s]
    known = [each for each in seen if each is not None]
    return sum(known) / len(known) if known else None


def miss_ratio(trial: TrialResult) -> float | None:
    """Return the share of bytes that came from storage; None where it could not be read."""
    return None if trial.trace is None else trial.trace.miss_ratio


def is_cold(trial: TrialResult) -> bool:
    """Say whether enough bytes are known to have come from storage; what is not known accuses nobody."""
    return (miss_ratio(trial) or 0.0) >= MISS.value


def took_from_storage(trial: TrialResult) -> bool | None:
    """Say whether the trial took anything from this machine's storage while measuring; None where it was not read."""
    if trial.trace is None:
        return None
    begin_s, end_s = trial.trace.measuring_s or (-math.inf, math.inf)
    known = [each.read_bytes_per_s for each in trial.trace.host if begin_s < each.at_s <= end_s]
    rates = [each for each in known if each is not None]
    return any(rate > 0 for rate in rates) if rates else None


def looks_at(case: Case, trial: TrialResult) -> tuple[TrialResult, ...]:
    """Return a trial and the other looks at its settings, end to end and with the same cache."""
    others = [
        each
        for each in case.others
        if each.number != trial.number
        and (each.settings, each.cache, each.feed, each.consume) == (trial.settings, trial.cache, "loader", "device")
    ]
    return (trial, *others)


def utilisation_percentiles(looks: Sequence[TrialResult]) -> tuple[float, float] | None:
    """Return the 5th and 95th percentile of GPU utilisation over all looks; None with too few samples."""
    samples = sorted(each for look in looks if look.trace is not None for each in _measured_utilisation(look.trace))
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
