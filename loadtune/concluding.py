"""What do finished trials and a duel add up to? Ceilings, findings and the recommendation of one report. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from loadtune.advice.attribution import attribute
from loadtune.advice.case import Case
from loadtune.advice.rules import find
from loadtune.advice.selection import recommend
from loadtune.advice.terms import Choice
from loadtune.errors import TooManyBadSamplesError
from loadtune.planning import Plan
from loadtune.records.measurement import BadSample, Duel, TrialResult
from loadtune.records.report import Attribution, Ceilings, Finding, Recommendation
from loadtune.records.resources import GpuInfo
from loadtune.records.settings import Settings

BAD_SAMPLES_SHOWN = 10
"""Broken samples named in the report's summary; the rest are counted. Each trial keeps its own list."""
BAD_SAMPLES_IN_ERROR = 3
"""Broken samples named in the error: it should stay readable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """What a report says beyond what was measured."""

    recommendation: Recommendation | None
    ceilings: Ceilings
    findings: tuple[Finding, ...]
    attribution: Attribution | None = None


def conclude(
    plan: Plan,
    trials: Sequence[TrialResult],
    duels: Sequence[Duel],
    choice: Choice | None,
    no_duel_reason: str,
    gpus: Sequence[GpuInfo] = (),
) -> Conclusion:
    """Return recommendation, ceilings and findings; without a choice there are ceilings only."""
    if choice is None:
        return Conclusion(recommendation=None, ceilings=compute_ceilings(trials, None), findings=())
    told = [each for each in duels if is_over_rates(each, plan.baseline, choice.settings)]
    duel = told[-1] if told else None
    trials = [_as_setting(trial) if trial.settings == choice.settings else trial for trial in trials]
    recommendation = recommend(choice, duel, trials, plan.terms, no_duel_reason=no_duel_reason)
    chosen = representative(trials, recommendation.settings)
    findings: tuple[Finding, ...] = ()
    attribution = None
    if chosen is not None:
        baseline = representative(trials, plan.baseline)
        case = Case(
            chosen=chosen,
            baseline=None if baseline is chosen else baseline,
            limits=plan.limits,
            device=plan.device.kind,
            sample_count=plan.terms.rank_samples,
            optimizer=plan.workload.optimizer,
            others=tuple(trials),
            gpu=_gpu_of(chosen, gpus),
            noise_scale=plan.terms.noise_scale if plan.terms.is_training else None,
            world_size=plan.terms.world_size,
        )
        findings, attribution = find(case), attribute(case)
    return Conclusion(
        recommendation=recommendation,
        ceilings=compute_ceilings(trials, recommendation),
        findings=findings,
        attribution=attribution,
    )


def is_over_rates(duel: Duel, baseline: Settings, contender: Settings) -> bool:
    """Say whether a duel is of these two and of their steady rates: one over short epochs shows the epochs' ends."""
    return (duel.baseline, duel.contender, duel.epoch_batches) == (baseline, contender, None)


def _gpu_of(trial: TrialResult, gpus: Sequence[GpuInfo]) -> GpuInfo | None:
    """Return the GPU that a trial used; None where it used none, or the driver knows it by another name."""
    uuid = None if trial.measurement is None else trial.measurement.device_uuid
    return next((gpu for gpu in gpus if gpu.uuid == uuid), None)


def _as_setting(trial: TrialResult) -> TrialResult:
    """Return a variant's trial as one of a setting: it has become the answer, so its cost and rate count."""
    return msgspec.structs.replace(trial, role="grid") if trial.role == "variant" else trial


def representative(trials: Sequence[TrialResult], settings: Settings) -> TrialResult | None:
    """Return the last complete end-to-end trial of a setting, or None."""
    own = [
        trial
        for trial in trials
        if trial.settings == settings
        and trial.measurement is not None
        and trial.role in {"grid", "baseline", "variant"}
    ]
    return own[-1] if own else None


def compute_ceilings(trials: Sequence[TrialResult], recommendation: Recommendation | None) -> Ceilings:
    """Return what device and loader did alone."""
    complete = [trial for trial in trials if trial.rate_per_s is not None]
    loader = {str(t.settings.num_workers): t.rate_per_s for t in complete if t.role == "loader" and t.rate_per_s}
    devices = [trial for trial in trials if trial.role == "ceiling"]
    device = next((trial for trial in devices if trial.rate_per_s is not None), None)
    if device is None:
        failed = next((trial.failure for trial in devices if trial.failure is not None), None)
        reason = "time did not suffice" if failed is None else failed.message
        return Ceilings(device_rate_per_s=None, device_rate_reason=reason, loader_rates_per_s=loader)
    is_comparable = recommendation is not None and recommendation.settings.batch_size == device.settings.batch_size
    reached = recommendation.rate_per_s / (device.rate_per_s or math.inf) if recommendation and is_comparable else None
    return Ceilings(device_rate_per_s=device.rate_per_s, loader_rates_per_s=loader, reached_ratio=reached)


def list_bad_samples(trials: Sequence[TrialResult]) -> list[BadSample]:
    """Return every broken sample met, once each, in the order of their names."""
    found = {bad.name: bad for trial in trials if trial.measurement for bad in trial.measurement.bad_samples}
    return [found[name] for name in sorted(found)]


def refuse_too_many(trials: Sequence[TrialResult], sample_count: int | None, max_bad_ratio: float) -> None:
    """End the probe where more samples are broken than allowed; one is always allowed unless the limit is 0.

    Raises:
        TooManyBadSamplesError: With the names of the first three.
    """
    for trial in trials:
        measured = trial.measurement
        if measured is None:
            continue
        is_whole = sample_count is not None and measured.samples_seen >= sample_count
        seen = sample_count if is_whole and sample_count is not None else max(1, measured.samples_seen)
        expected = max_bad_ratio * seen
        # A part of the data set holds more than its share by chance: three standard deviations are let pass.
        allowed = math.ceil(expected if is_whole else expected + 3 * math.sqrt(expected))
        if measured.bad_sample_count > allowed:
            raise _too_many(trials, measured.bad_sample_count, seen, allowed)


def _too_many(trials: Sequence[TrialResult], count: int, seen: int, allowed: int) -> TooManyBadSamplesError:
    bad = list_bad_samples(trials)
    listed = "; ".join(f"{each.name}: {each.reason}" for each in bad[:BAD_SAMPLES_IN_ERROR])
    listed += f"; and {len(bad) - BAD_SAMPLES_IN_ERROR} more" if len(bad) > BAD_SAMPLES_IN_ERROR else ""
    return TooManyBadSamplesError(
        f"{count} of {seen} samples are broken, {allowed} are allowed: {listed}",
        "repair or remove them, or allow more with --max-bad 5%",
    )
