"""What does the evidence say about the cause, and what can be done?

One small function a rule: a case in, a finding or None out. The two rules of thumb about GPU utilisation
(jittery: more workers; low and steady: a larger batch) are each confirmed or overruled by the step
decomposition, because a loader that stalls every step looks low and steady to NVML.
"""

from typing import Literal

from loadtune.advice.case import Case, describe, miss_ratio, stall_ratio, used_cores, utilisation_percentiles
from loadtune.advice.cautions import (
    foreign_load,
    noisy,
    other_streams,
    page_cache,
    shared_gpu,
    small_batch,
    throttled_gpu,
)
from loadtune.advice.growth import is_exhausted, noise_scale, pays_from
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Evidence, Finding
from loadtune.schedule.rescale import rescale_learning_rate

STALL_RATIO = 0.05
"""Share of time waiting for data above which the loader limits. Lower would chase launch gaps."""
STALL_SOURCE = "TensorFlow Profiler and torch_tb_profiler: input-bound from 5 % of the step"
SEVERE_STALL_RATIO = 0.2
"""Share from which the finding is a warning."""
SEVERE_STALL_SOURCE = "TensorFlow Profiler: highly input-bound from 20 %"
BUSY_P95_RATIO = 0.7
"""A GPU whose 95th percentile of utilisation lies below is under-used."""
IDLE_P5_RATIO = 0.1
"""A busy GPU whose 5th percentile lies below fluctuates."""
STEADY_RANGE_RATIO = 0.3
"""Range from the 5th to the 95th percentile up to which utilisation is called steady. Own choice; it decides a word."""
UTILISATION_SOURCE = "SageMaker Debugger LowGPUUtilization: p95 < 70, p5 < 10"
SATURATED_RATIO = 0.9
"""Share of the usable cores from which more workers only share the same cores."""
SATURATED_SOURCE = "SageMaker Debugger CPUBottleneck: CPU > 90 %"
MISS_RATIO = 0.5
"""Share of bytes from storage above which waiting means waiting for storage. Own choice: most of them."""
BOUNDARY_RATIO = 0.05
"""Share of a real epoch spent at its boundary from which it counts; the same 5 % as any other stall."""


def find(case: Case) -> tuple[Finding, ...]:
    """Return every finding: warnings, then advice, then information, each in the order of RULES."""
    rank = {"warning": 0, "advice": 1, "info": 2}
    found = [finding for rule in RULES if (finding := rule(case)) is not None]
    return tuple(sorted(found, key=lambda finding: rank[finding.severity]))


def device_bound(case: Case) -> Finding | None:
    """The device hardly waits: the loader is fine, and more of it is waste."""
    stall = stall_ratio(case.chosen)
    if stall is None or stall > STALL_RATIO:
        return None
    helps = "model or device" if is_exhausted(case) else "model, device or batch size"
    return Finding(
        rule="device-bound",
        severity="info",
        title="The device is the limit, not the loader",
        detail=f"With {describe(case.chosen)} the device waited for data {stall:.1%} of the time.",
        action=f"Leave the loader alone: only a faster {helps} helps.",
        evidence=(_stall_evidence(stall),),
    )


def jittery_gpu(case: Case) -> Finding | None:
    """Busy by bursts: more workers, if the device really waits for data."""
    trial = case.baseline or case.chosen
    percentiles = utilisation_percentiles(trial)
    if percentiles is None or percentiles[1] < BUSY_P95_RATIO or percentiles[0] >= IDLE_P5_RATIO:
        return None
    stall, told = (
        stall_ratio(trial),
        f"p5 {percentiles[0]:.0%}, p95 {percentiles[1]:.0%} with {describe(trial)}",
    )
    evidence = _utilisation_evidence(percentiles, stall)
    if stall is None or stall <= STALL_RATIO:
        return Finding(
            rule="jittery-gpu",
            severity="info",
            title="GPU utilisation fluctuates, but not because of the loader",
            detail=f"Utilisation: {told}. {_overruled(stall)}",
            evidence=evidence,
        )
    return Finding(
        rule="jittery-gpu",
        severity="advice",
        title="GPU utilisation fluctuates because the device waits for batches",
        detail=f"Utilisation: {told}. The steps confirm it: {stall:.1%} of the time went into waiting.",
        action=_more_workers(case, trial),
        evidence=evidence,
    )


def low_steady_gpu(case: Case) -> Finding | None:
    """Low and steady: a larger batch with its learning rate, unless the loader stalls every step."""
    trial = case.baseline or case.chosen
    percentiles = utilisation_percentiles(trial)
    if percentiles is None or percentiles[1] >= BUSY_P95_RATIO:
        return None
    stall, evidence = stall_ratio(trial), _utilisation_evidence(percentiles, stall_ratio(trial))
    told = f"Utilisation: p95 {percentiles[1]:.0%} with {describe(trial)}."
    if stall is not None and stall > STALL_RATIO:
        return Finding(
            rule="low-steady-gpu",
            severity="advice",
            title=f"GPU utilisation is {_low(percentiles)} because the loader stalls the steps",
            detail=f"{told} A larger batch would not help: {stall:.1%} of the time went in waiting for data.",
            action=_more_workers(case, trial),
            evidence=evidence,
        )
    own = trial.settings.effective_batch_size
    told_rate = rescale_learning_rate(
        case.optimizer, own, 2 * own, noise_scale=case.noise_scale, world_size=case.world_size
    )
    return Finding(
        rule="low-steady-gpu",
        severity="info" if stall is None else "advice",
        title=f"GPU utilisation is {_low(percentiles)}: the batch is small for this device",
        detail=f"{told} " + (_overruled(stall) if stall is None else f"The loader stalls {stall:.1%} of the time."),
        action=f"Try batch_size={2 * trial.settings.batch_size} with {told_rate.factor:.3g} times the learning rate"
        f"{_condition(case, 2 * own)}.",
        evidence=evidence,
    )


def loader_bound(case: Case) -> Finding | None:
    """The device waits while cores are idle and storage is not the cause."""
    stall, cores = _stalled(case.chosen), used_cores(case.chosen)
    if stall is None or cores is None or _is_saturated(case, cores) or miss_ratio(case.chosen) >= MISS_RATIO:
        return None
    return Finding(
        rule="loader-bound",
        severity=_stall_severity(stall),
        title="The loader is the limit, and cores are idle",
        detail=f"The device waited {stall:.1%} of the time with {describe(case.chosen)}, "
        f"while {cores:.1f} of {case.limits.usable_cores:g} cores were used.",
        action="Try more workers than the grid held (--num-workers).",
        evidence=(_stall_evidence(stall), _cores_evidence(case, cores)),
    )


def cpu_saturated(case: Case) -> Finding | None:
    """The device waits and the cores are used up: more workers cannot help."""
    stall, cores = _stalled(case.chosen), used_cores(case.chosen)
    if stall is None or cores is None or not _is_saturated(case, cores):
        return None
    return Finding(
        rule="cpu-saturated",
        severity=_stall_severity(stall),
        title="The CPU is the limit: more workers will not help",
        detail=f"The device waited {stall:.1%} of the time, "
        f"and {cores:.1f} of {case.limits.usable_cores:g} cores were used.",
        action="Make a sample cheaper: smaller stored images, decode at reduced size, augment on the GPU.",
        evidence=(_stall_evidence(stall), _cores_evidence(case, cores)),
    )


def storage_bound(case: Case) -> Finding | None:
    """The device waits, cores are idle, and most bytes came from storage."""
    stall, cores, missed = _stalled(case.chosen), used_cores(case.chosen), miss_ratio(case.chosen)
    if stall is None or missed < MISS_RATIO or (cores is not None and _is_saturated(case, cores)):
        return None
    evidence = Evidence(name="miss_ratio", value=missed, threshold=MISS_RATIO, source="own choice")
    return Finding(
        rule="storage-bound",
        severity=_stall_severity(stall),
        title="Storage is the limit",
        detail=f"The device waited {stall:.1%} of the time and {missed:.0%} of the bytes came from storage.",
        action="Copy the data to faster storage or into memory, or store fewer and larger files.",
        evidence=(_stall_evidence(stall), evidence),
    )


def main_process_bound(case: Case) -> Finding | None:
    """The main process itself is busy all the time: more workers cannot help."""
    stall, trace = _stalled(case.chosen), case.chosen.trace
    busy = None if trace is None else trace.mean_main_cores
    is_own_loop = case.device != "cpu" and case.chosen.settings.num_workers > 0
    if stall is None or busy is None or busy < SATURATED_RATIO or not is_own_loop:
        return None
    evidence = Evidence(name="main_cores", value=busy, unit="cores", threshold=SATURATED_RATIO, source=SATURATED_SOURCE)
    return Finding(
        rule="main-process-bound",
        severity="advice",
        title="The main process is the limit: more workers will not help",
        detail=f"It used {busy:.2f} cores while the device waited {stall:.1%} of the time.",
        action="Give it less to do: fewer and larger tensors a batch, a cheaper loop.",
        evidence=(_stall_evidence(stall), evidence),
    )


def epoch_boundary(case: Case) -> Finding | None:
    """Starting the workers anew each epoch takes a share of a real epoch."""
    measurement, rate = case.chosen.measurement, case.chosen.rate_per_s
    if measurement is None or measurement.epoch_boundary_s is None or not rate or not case.sample_count:
        return None
    boundary_s, steady_s = measurement.epoch_boundary_s, case.sample_count / rate
    share = boundary_s / (steady_s + boundary_s)
    if share < BOUNDARY_RATIO:
        return None
    can_persist = case.chosen.settings.num_workers > 0 and not case.chosen.settings.persistent_workers
    baseline_s = None if case.baseline is None else _epoch_s(case.baseline, case.sample_count)
    is_slower = baseline_s is not None and baseline_s < steady_s + boundary_s
    told = f"An epoch of {case.sample_count} samples takes {steady_s:.1f} s, its end {boundary_s:.1f} s."
    if is_slower:
        told += f" With {describe(case.baseline or case.chosen)} it takes {baseline_s:.1f} s in all."
    title = f"The end of an epoch takes {share:.0%} of it"
    return Finding(
        rule="epoch-boundary",
        severity="warning" if is_slower else "advice",
        title="Epochs are so short that starting the workers costs more than they win" if is_slower else title,
        detail=told,
        action="Set persistent_workers=True." if can_persist else None,
        evidence=(Evidence(name="boundary_ratio", value=share, threshold=BOUNDARY_RATIO, source="own choice"),),
    )


def _epoch_s(trial: TrialResult, sample_count: int) -> float | None:
    """Return the seconds of a whole epoch; None where its end was not measured."""
    measurement = trial.measurement
    if measurement is None or measurement.epoch_boundary_s is None or not trial.rate_per_s:
        return None
    return sample_count / trial.rate_per_s + measurement.epoch_boundary_s


RULES = (
    device_bound, cpu_saturated, storage_bound, main_process_bound, loader_bound, jittery_gpu, low_steady_gpu,
    epoch_boundary, noise_scale, noisy, foreign_load, throttled_gpu, shared_gpu, small_batch, page_cache,
    other_streams,
)  # fmt: skip
"""Causes first: their order is the order of findings of one severity."""


def _stalled(trial: TrialResult) -> float | None:
    """Return the stall ratio where the loader limits, else None."""
    stall = stall_ratio(trial)
    return stall if stall is not None and stall > STALL_RATIO else None


def _is_saturated(case: Case, cores: float) -> bool:
    return cores >= SATURATED_RATIO * case.limits.usable_cores


def _stall_severity(stall: float) -> Literal["warning", "advice"]:
    return "warning" if stall >= SEVERE_STALL_RATIO else "advice"


def _low(percentiles: tuple[float, float]) -> str:
    """Say how low utilisation looks: a loader that stalls every step looks steady to NVML, a slower one uneven."""
    return "low and steady" if percentiles[1] - percentiles[0] <= STEADY_RANGE_RATIO else "low and uneven"


def _condition(case: Case, batch_size: int) -> str:
    """Say from what gain a larger batch pays, where the noise scale tells."""
    least = pays_from(case, batch_size)
    return "" if least is None else f"; by the noise scale it pays from {least:.2f} times the samples/s on"


def _overruled(stall: float | None) -> str:
    if stall is None:
        return "The steps could not be decomposed, so the cause is not confirmed."
    return f"The steps overrule more workers: the device waited for data only {stall:.1%} of the time."


def _more_workers(case: Case, trial: TrialResult) -> str:
    chosen = case.chosen.settings.num_workers
    if chosen > trial.settings.num_workers:
        return f"Use num_workers={chosen}."
    return "Feed it faster; see what limits the loader."


def _stall_evidence(stall: float) -> Evidence:
    return Evidence(name="stall_ratio", value=stall, threshold=STALL_RATIO, source=STALL_SOURCE)


def _cores_evidence(case: Case, cores: float) -> Evidence:
    limit = SATURATED_RATIO * case.limits.usable_cores
    return Evidence(name="used_cores", value=cores, unit="cores", threshold=limit, source=SATURATED_SOURCE)


def _utilisation_evidence(percentiles: tuple[float, float], stall: float | None) -> tuple[Evidence, ...]:
    low, high = percentiles
    evidence = (
        Evidence(name="utilisation_p5", value=low, threshold=IDLE_P5_RATIO, source=UTILISATION_SOURCE),
        Evidence(name="utilisation_p95", value=high, threshold=BUSY_P95_RATIO, source=UTILISATION_SOURCE),
    )
    return evidence if stall is None else (*evidence, _stall_evidence(stall))
