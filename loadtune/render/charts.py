"""Which numbers does each chart show? Plain tuples, drawn by `drawing` and checked without a picture."""

from collections.abc import Iterable
from typing import NamedTuple

from loadtune.records.measurement import SlicePair, TrialResult, TrialState
from loadtune.records.report import Report
from loadtune.records.settings import Settings
from loadtune.render.answer import baseline_settings, choice_word, deciding_duel, is_of_setting
from loadtune.render.words import STATE_WORDS
from loadtune.stats import TIE_RATIO


class RatePoint(NamedTuple):
    """One setting's rate with its spread, in samples a second."""

    num_workers: int
    rate_per_s: float
    low_per_s: float
    high_per_s: float


class RateLine(NamedTuple):
    """All measured points of one batch size, fewest workers first."""

    batch_size: int
    points: tuple[RatePoint, ...]


class FailedPoint(NamedTuple):
    """A setting without a rate."""

    num_workers: int
    batch_size: int
    state: str


class ThroughputChart(NamedTuple):
    """Throughput against num_workers. The device's rate alone is that at `device_batch_size`."""

    lines: tuple[RateLine, ...]
    failed: tuple[FailedPoint, ...]
    chosen: RatePoint | None
    chosen_word: str
    baseline: RatePoint | None
    tie_band_per_s: tuple[float, float] | None
    device_rate_per_s: float | None
    device_batch_size: int | None
    usable_cores: float


class PairPoint(NamedTuple):
    """One slice pair of the duel: the contender's rate by the baseline's."""

    number: int
    ratio: float
    restart: int
    is_flagged: bool


class DuelChart(NamedTuple):
    """Every slice pair with the interval of their mean."""

    pairs: tuple[PairPoint, ...]
    estimate: float | None
    low: float | None
    high: float | None


def compute_throughput_chart(report: Report) -> ThroughputChart | None:
    """Return the numbers of the main chart, or None where no trial with a loader completed.

    A setting measured several times is the mean of its trials with the widest spread among them; of settings
    that differ only beyond num_workers and batch_size the fastest is drawn.
    """
    by_setting: dict[Settings, list[TrialResult]] = {}
    trained = [trial for trial in report.trials if is_of_setting(report, trial)]
    for trial in trained:
        if trial.state is TrialState.COMPLETE:
            by_setting.setdefault(trial.settings, []).append(trial)
    if not by_setting:
        return None
    points = {settings: _compute_point(trials) for settings, trials in by_setting.items()}
    recommendation = report.recommendation
    chosen = None if recommendation is None else points.get(recommendation.settings)
    return ThroughputChart(
        lines=_compute_lines(points),
        failed=_compute_failed(trial for trial in trained if trial.settings not in points),
        chosen=chosen,
        chosen_word=choice_word(recommendation),
        baseline=points.get(baseline_settings(report)),
        tie_band_per_s=None if chosen is None else (chosen.rate_per_s * TIE_RATIO, chosen.rate_per_s / TIE_RATIO),
        device_rate_per_s=report.ceilings.device_rate_per_s,
        device_batch_size=None if recommendation is None else recommendation.settings.batch_size,
        usable_cores=report.environment.limits.usable_cores,
    )


def _compute_point(trials: list[TrialResult]) -> RatePoint:
    rates = [trial.rate_per_s for trial in trials if trial.rate_per_s is not None]
    rate = sum(rates) / len(rates)
    spread = max(trial.spread_ratio or 0.0 for trial in trials)
    low, high = min(rates) * (1 - spread), max(rates) * (1 + spread)
    return RatePoint(trials[0].settings.num_workers, rate, max(0.0, low), high)


def _compute_lines(points: dict[Settings, RatePoint]) -> tuple[RateLine, ...]:
    fastest: dict[tuple[int, int], RatePoint] = {}
    for settings, point in points.items():
        key = (settings.batch_size, settings.num_workers)
        if key not in fastest or point.rate_per_s > fastest[key].rate_per_s:
            fastest[key] = point
    sizes = sorted({batch_size for batch_size, _ in fastest})
    return tuple(
        RateLine(size, tuple(point for key, point in sorted(fastest.items()) if key[0] == size)) for size in sizes
    )


def _compute_failed(trials: Iterable[TrialResult]) -> tuple[FailedPoint, ...]:
    failed = {
        FailedPoint(trial.settings.num_workers, trial.settings.batch_size, STATE_WORDS[trial.state])
        for trial in trials
        if trial.state is not TrialState.COMPLETE
    }
    return tuple(sorted(failed))


def compute_duel_chart(report: Report) -> DuelChart | None:
    """Return the duel that gave the verdict, or None where there was none with slice pairs."""
    recommendation = report.recommendation
    duel = deciding_duel(report)
    if recommendation is None or duel is None:
        return None
    pairs = tuple(
        PairPoint(number, ratio, pair.restart, bool(pair.flags))
        for number, pair in enumerate(duel.pairs, start=1)
        if (ratio := _compute_ratio(pair)) is not None
    )
    speedup = recommendation.speedup
    return DuelChart(pairs, speedup.estimate, speedup.low, speedup.high) if pairs else None


def _compute_ratio(pair: SlicePair) -> float | None:
    """Return contender by baseline, or None where a side delivered nothing: it has no place on a log axis."""
    if pair.baseline_samples == 0 or pair.contender_samples == 0:
        return None
    return (pair.contender_samples / pair.contender_s) / (pair.baseline_samples / pair.baseline_s)
