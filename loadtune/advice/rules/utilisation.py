"""What does GPU utilisation seem to say, and do the steps agree?

The two rules of thumb (jittery: more workers; low and steady: a larger batch) are each confirmed or overruled by the
step decomposition, because a loader that stalls every step looks low and steady to NVML.
"""

from loadtune.advice.case import Case, describe, looks_at, stall_ratio, utilisation_percentiles
from loadtune.advice.growth import ask_for_twice, instead_of_twice
from loadtune.advice.rules.gpu import device_line, fixed_cost_ratio, launch_ratio
from loadtune.advice.thresholds import BUSY_P95, FIXED_COST, IDLE_P5, LAUNCH, STALL
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Evidence, Finding

STEADY_RANGE_RATIO = 0.3
"""Range from the 5th to the 95th percentile up to which utilisation is called steady. Own choice; it decides a word."""


def jittery_gpu(case: Case) -> Finding | None:
    """Busy by bursts: more workers, if the device really waits for data."""
    trial = case.baseline or case.chosen
    percentiles = utilisation_percentiles(looks_at(case, trial))
    if percentiles is None or percentiles[1] < BUSY_P95.value or percentiles[0] >= IDLE_P5.value:
        return None
    stall, told = (
        stall_ratio(trial),
        f"p5 {percentiles[0]:.0%}, p95 {percentiles[1]:.0%} with {describe(trial)}",
    )
    evidence = _utilisation_evidence(percentiles, stall)
    if stall is None or stall <= STALL.value:
        return Finding(
            rule="jittery-gpu",
            severity="info",
            title="GPU utilisation fluctuates, but not because of the loader",
            detail=f"Utilisation: {told}. {_overruled(stall)}",
            evidence=evidence,
            confidence="low" if stall is None else "high",
            between=("loader-bound", "device-bound") if stall is None else (),
            confirm="A probe on the device itself decomposes the steps." if stall is None else None,
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
    percentiles = utilisation_percentiles(looks_at(case, trial))
    if percentiles is None or percentiles[1] >= BUSY_P95.value:
        return None
    stall, evidence = stall_ratio(trial), _utilisation_evidence(percentiles, stall_ratio(trial))
    told = f"Utilisation: p95 {percentiles[1]:.0%} with {describe(trial)}."
    if stall is not None and stall > STALL.value:
        return Finding(
            rule="low-steady-gpu",
            severity="advice",
            title=f"GPU utilisation is {_low(percentiles)} because the loader stalls the steps",
            detail=f"{told} A larger batch would not help: {stall:.1%} of the time went in waiting for data.",
            action=_more_workers(case, trial),
            evidence=evidence,
        )
    line = device_line(case)
    share = None if line is None else fixed_cost_ratio(line, trial.settings.batch_size)
    if share is not None:
        evidence = (*evidence, FIXED_COST.evidence(share))
    if share is not None and share < FIXED_COST.value:
        return Finding(
            rule="low-steady-gpu",
            severity="info",
            title=f"GPU utilisation is {_low(percentiles)}, and a larger batch would not help",
            detail=f"{told} Only {share:.1%} of a step is a cost that does not grow with the batch.",
            evidence=evidence,
        )
    return _small_batch(case, trial, percentiles, share, evidence)


def _small_batch(
    case: Case,
    trial: TrialResult,
    percentiles: tuple[float, float],
    share: float | None,
    evidence: tuple[Evidence, ...],
) -> Finding:
    """Return what is said where the loader does not explain it: a larger batch, as sure as fixed costs are known.

    Args:
        case: The evidence.
        trial: Whose utilisation is low.
        percentiles: Of it.
        share: Of a step, what does not grow with the batch; None where one batch size was measured.
        evidence: So far.
    """
    stall, launch = stall_ratio(trial), launch_ratio(case, trial)
    waits = None if trial.measurement is None else trial.measurement.synchronisations
    is_known = share is not None or waits == 0 or (launch is not None and launch >= LAUNCH.value)
    is_small = stall is not None and is_known
    if share is None and launch is not None:
        evidence = (*evidence, LAUNCH.evidence(launch))
    detail = f"Utilisation: p95 {percentiles[1]:.0%} with {describe(trial)}. "
    detail += _overruled(stall) if stall is None else f"The loader stalls {stall:.1%} of the time."
    if share is not None:
        detail += f" {share:.0%} of a step is a cost that does not grow with the batch."
    elif not is_known:
        detail += " A step that waits for the device itself looks the same."
    seems = f"{_low(percentiles)}: the batch {'is' if is_small else 'may be'} small for this device"
    between = ("launch-bound", "loader-bound") if stall is None else ("launch-bound", "synchronising-step")
    larger = ask_for_twice(case, trial.settings)
    return Finding(
        rule="low-steady-gpu",
        severity="info" if stall is None else "advice",
        title=f"GPU utilisation is {seems}",
        detail=detail,
        action=instead_of_twice(case, trial.settings) if larger is None else f"{larger}.",
        evidence=evidence,
        confidence="low" if not is_small else "medium" if share is None else "high",
        between=() if is_small else between,
        confirm="The step is quicker once compiled."
        if larger is None
        else f"The device alone does more samples a second at batch_size={2 * trial.settings.batch_size}.",
    )


def _low(percentiles: tuple[float, float]) -> str:
    """Say how low utilisation looks: a loader that stalls every step looks steady to NVML, a slower one uneven."""
    return "low and steady" if percentiles[1] - percentiles[0] <= STEADY_RANGE_RATIO else "low and uneven"


def _overruled(stall: float | None) -> str:
    if stall is None:
        return "The steps could not be decomposed, so the cause is not confirmed."
    return f"The steps overrule more workers: the device waited for data only {stall:.1%} of the time."


def _more_workers(case: Case, trial: TrialResult) -> str:
    chosen = case.chosen.settings.num_workers
    if chosen > trial.settings.num_workers:
        return f"Use num_workers={chosen}."
    return "Feed it faster; see what limits the loader."


def _utilisation_evidence(percentiles: tuple[float, float], stall: float | None) -> tuple[Evidence, ...]:
    low, high = percentiles
    evidence = (IDLE_P5.evidence(low), BUSY_P95.evidence(high))
    return evidence if stall is None else (*evidence, STALL.evidence(stall))
