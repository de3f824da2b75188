"""What do windows and slices say about a rate, and how sure is it?

Pure arithmetic. It does not decide what to recommend; `advice` does. A trial has a rate and a spread, never
an interval: windows of one run see only part of what differs between runs. Intervals come from paired
comparisons alone: the duel's slice pairs, and the rounds of the screening.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist, fmean, stdev

import msgspec

from loadtune.records.measurement import SlicePair, Window
from loadtune.records.report import Verdict

CONFIDENCE = 0.95
"""Two-sided level of every interval; the verdicts' error rates and the simulation tests stand on it."""
DUEL_PAIRS_MIN = 8
"""Fewer pairs leave the noise itself unknown: below 8 the t factor exceeds 2.4 and one stall decides."""
ABBA_PAIRS_MIN = 4
"""The same for fresh runs in ABBA order, where one pair costs two whole trials."""
STARTS_MIN = 2
"""Starts of both sides: what differs between two starts of a process is in no single one, however long it runs."""
BURSTS_MIN = 3
"""A slice of fewer bursts of num_workers batches shares too much of its first and last with its neighbours."""
SAME_RATIO = 0.03
"""SAME needs the whole interval within 1 +- this: a smaller difference is not worth changing a training."""
TIE_RATIO = 0.97
"""A cheaper setting replaces the best at this share of its rate or more ..."""
TIE_LOW_RATIO = 0.94
"""... if its lower end is here or above: "not significantly different" alone picked 0.87 of the best."""
LOG_MAX = 700.0
"""Largest log of a ratio that a float holds: a file that somebody wrote by hand may ask for more."""
DRIFT_P = 0.01
"""Level of each drift test. Higher cries drift at steady duels; lower misses a moving ratio."""
DRIFT_AGREES_P = 0.05
"""Level of a confirming trend within starts. Higher takes starts that differ for drift; lower misses a moving ratio."""

Pairs = Sequence[SlicePair]
Logs = Sequence[Sequence[float]]
"""Log ratios of the pairs, one sequence a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioInterval:
    """A ratio of two rates with its 95 % interval; figures are None where the data allow none."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int
    reason: str | None = None
    """Why it is not to be trusted; None where it is."""

    @property
    def trusted(self) -> bool:
        """Whether a verdict may rest on it."""
        return self.reason is None

    @property
    def smallest_detectable_ratio(self) -> float | None:
        """Exp of the half width: the smallest speed-up (1.05 is 5 %) that could have been told from 1."""
        return None if self.low is None or self.high is None else math.sqrt(self.high / self.low)


@dataclass(frozen=True, slots=True)
class PooledNoise:
    """Noise of one log rate within a round, pooled over all settings of a screening."""

    sd: float
    degrees_of_freedom: int


def rate_per_s(windows: Sequence[Window]) -> float:
    """Return samples a second: the ratio of sums, so that a window counts for as long as it lasted."""
    return sum(window.samples for window in windows) / _duration_s(windows)


def spread_ratio(windows: Sequence[Window]) -> float | None:
    """Return the standard deviation of the windows' rates by their mean; None with under two windows."""
    rates = [window.samples / window.duration_s for window in windows]
    return None if len(rates) < 2 or fmean(rates) == 0.0 else stdev(rates) / fmean(rates)


def corrected_rate_per_s(windows: Sequence[Window]) -> float | None:
    """Return the loader's own rate, the prefetch queue's change taken out: (n - q0 + q1) / T, in samples.

    None where the queue held at the start what the windows consumed: they say nothing about the loader.
    """
    produced = _batches(windows) - windows[0].queue_before + windows[-1].queue_after
    if produced <= 0:
        return None
    return rate_per_s(windows) * produced / _batches(windows)


def queue_bias_ratio(windows: Sequence[Window]) -> float:
    """Return |q1 - q0| / n: the share of the rate that the prefetch queue gave or took."""
    return abs(windows[-1].queue_after - windows[0].queue_before) / _batches(windows)


def merge_windows(windows: Sequence[Window], min_s: float) -> tuple[Window, ...]:
    """Join consecutive windows until each lasts `min_s`; a short rest joins the last, so none is dropped."""
    groups: list[list[Window]] = []
    for window in windows:
        if not groups or _duration_s(groups[-1]) >= min_s:
            groups.append([])
        groups[-1].append(window)
    if len(groups) > 1 and _duration_s(groups[-1]) < min_s:
        groups[-2].extend(groups.pop())
    return tuple(_join(group) for group in groups)


def jitter(samples: Sequence[float]) -> float | None:
    """Return the standard deviation of utilisation samples (ratios); None with under two of them."""
    return stdev(samples) if len(samples) >= 2 else None


@lru_cache(maxsize=256)
def student_t_quantile(p: float, df: int) -> float:
    """Return t with P(T <= t) = p for Student's t with `df` degrees of freedom, to about 12 digits.

    Raises:
        ValueError: p is not strictly between 0 and 1, or df is below 1.
    """
    if not 0.0 < p < 1.0 or df < 1:
        raise ValueError(f"no Student quantile at p={p}, df={df}")
    if p < 0.5:
        return -student_t_quantile(1.0 - p, df)
    # In theta = atan(t / sqrt(df)) the range is finite, and the central probability rises from 0 to 1.
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves pi / 2 down to the spacing of floats
        middle = (low + high) / 2
        low, high = (middle, high) if _central_probability(middle, df) < 2 * p - 1 else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def duel_interval(
    pairs: Pairs, *, pairs_min: int = DUEL_PAIRS_MIN, burst_samples: tuple[float, float] | None = None
) -> RatioInterval:
    """Return contender over baseline: ratio of sums, jackknife in log space, Student's t at 95 %.

    Restarts make groups. What differs between two starts of the same process is not in the pairs of one
    start, so the jackknife is also taken over whole restarts, and the wider interval counts: that holds the level
    whatever the share of process-to-process variance. With two the factor is t(1) = 12.7, which hides all but
    large differences; more restarts are better than longer ones. A single start is not trusted. No duel shows what it
    did not meet: stalls of one side rarer than its slices, or a ratio that wanders more slowly than its starts.

    Args:
        pairs: In the order they were taken.
        pairs_min: Fewer are not trusted: `DUEL_PAIRS_MIN`, or `ABBA_PAIRS_MIN` for fresh runs.
        burst_samples: Samples that arrive at once at baseline and contender (num_workers * batch_size where
            the loader is the limit; 0 where they come evenly); None: the slices are not judged for coarseness.
    """
    if len(pairs) < 2:
        return RatioInterval(pairs=len(pairs), reason=f"{len(pairs)} slice pairs, {pairs_min} needed")
    if any(pair.baseline_samples == 0 or pair.contender_samples == 0 for pair in pairs):
        return RatioInterval(pairs=len(pairs), reason="a slice delivered no sample")
    by_restart: dict[int, list[SlicePair]] = {}
    for pair in pairs:
        by_restart.setdefault(pair.restart, []).append(pair)
    groups = list(by_restart.values())
    logs = [[_log_ratio([pair]) for pair in group] for group in groups]
    half = max(_pair_half_width(pairs, logs), _jackknife_half_width(groups) if len(groups) >= STARTS_MIN else 0.0)
    reason = _distrust(pairs, logs, pairs_min, burst_samples)
    return _interval(_log_ratio(pairs), half, len(pairs), reason)


def verdict(interval: RatioInterval) -> Verdict:
    """Return FASTER above 1, SAME wholly within +-3 %, else (and whenever untrusted) INCONCLUSIVE."""
    if not interval.trusted or interval.low is None or interval.high is None:
        return Verdict.INCONCLUSIVE
    if interval.low > 1.0:
        return Verdict.FASTER
    if interval.low >= 1.0 - SAME_RATIO and interval.high <= 1.0 + SAME_RATIO:
        return Verdict.SAME
    return Verdict.INCONCLUSIVE


def is_tied(ratio: float, low: float) -> bool:
    """Say whether a cheaper setting may replace the best: at least 0.97 of it, and surely at least 0.94."""
    return ratio >= TIE_RATIO and low >= TIE_LOW_RATIO


def pool_noise(rates: Sequence[Mapping[int, float]]) -> PooledNoise | None:
    """Return the noise that setting and round leave unexplained, from each setting's rate by round.

    The rounds are those that most settings have, as many as leave the most degrees of freedom: a last round that was
    cut short counts for nothing. None where fewer than two settings share two rounds.
    """
    held = Counter(number for row in rates for number in row)
    by_coverage = sorted(held, key=lambda number: (-held[number], number))
    table: list[list[float]] = []
    freedom = 0
    for count in range(2, len(by_coverage) + 1):
        rounds = sorted(by_coverage[:count])
        shared = [row for row in rates if all(number in row for number in rounds)]
        if (len(shared) - 1) * (count - 1) > freedom:
            freedom = (len(shared) - 1) * (count - 1)
            table = [[math.log(row[number]) for number in rounds] for row in shared]
    if not table:
        return None
    means = [fmean(column) for column in zip(*table, strict=True)]
    whole = fmean(means)
    square = sum((x - fmean(row) - m + whole) ** 2 for row in table for x, m in zip(row, means, strict=True))
    return PooledNoise(math.sqrt(square / freedom), freedom)


def paired_ratio_interval(
    a_rates: Sequence[float], b_rates: Sequence[float], noise: PooledNoise | None = None
) -> RatioInterval:
    """Return a over b from rounds in which both ran; what the round did to both cancels in the ratio.

    Two rounds of two settings alone have t(1) = 12.7: the noise pooled over all settings lends its degrees.

    Raises:
        ValueError: The rates are of different lengths, empty, or not positive.
    """
    if not a_rates or min(*a_rates, *b_rates) <= 0.0:
        raise ValueError("paired rates are positive, and there is at least one pair")
    logs = [math.log(a / b) for a, b in zip(a_rates, b_rates, strict=True)]
    if noise is not None:
        half = _t_factor(noise.degrees_of_freedom) * noise.sd * math.sqrt(2 / len(logs))
    elif len(logs) >= 2:
        half = _t_factor(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    else:
        return RatioInterval(estimate=math.exp(logs[0]), pairs=1, reason="one round gives no interval")
    return _interval(fmean(logs), half, len(logs))


def _interval(centre: float, half: float, pairs: int, reason: str | None = None) -> RatioInterval:
    low, centre_ratio, high = (math.exp(max(-LOG_MAX, min(LOG_MAX, x))) for x in (centre - half, centre, centre + half))
    return RatioInterval(estimate=centre_ratio, low=low, high=high, pairs=pairs, reason=reason)


def _duration_s(windows: Sequence[Window]) -> float:
    return sum(window.duration_s for window in windows)


def _batches(windows: Sequence[Window]) -> int:
    return sum(window.batches for window in windows)


def _join(windows: Sequence[Window]) -> Window:
    names = ("duration_s", "batches", "samples", "data_wait_s", "device_idle_s", "copy_s", "compute_s")
    sums = {name: _sum_known([getattr(window, name) for window in windows]) for name in names}
    flags = tuple(dict.fromkeys(flag for window in windows for flag in window.flags))
    return msgspec.structs.replace(windows[0], queue_after=windows[-1].queue_after, flags=flags, **sums)


def _sum_known(values: Sequence[float | None]) -> float | None:
    """Sum, or None as soon as one part is unknown: the sum of the others would be too small."""
    return None if None in values else sum(value for value in values if value is not None)


def _central_probability(theta: float, df: int) -> float:
    """Return P(|T| <= sqrt(df) * tan(theta)): the series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    is_odd = df % 2
    square = math.cos(theta) ** 2
    term = math.cos(theta) if is_odd else 1.0
    total = 0.0
    for power in range(is_odd, df - 1, 2):
        total += term
        term *= square * (power + 1) / (power + 2)
    return 2 / math.pi * (theta + math.sin(theta) * total) if is_odd else math.sin(theta) * total


def _t_factor(df: int) -> float:
    return student_t_quantile((1 + CONFIDENCE) / 2, df)


def _log_ratio(pairs: Pairs) -> float:
    contender = sum(pair.contender_samples for pair in pairs) / sum(pair.contender_s for pair in pairs)
    baseline = sum(pair.baseline_samples for pair in pairs) / sum(pair.baseline_s for pair in pairs)
    return math.log(contender) - math.log(baseline)


def _jackknife_half_width(groups: Sequence[Pairs]) -> float:
    """Return t times the delete-one-group jackknife error of the log ratio."""
    count = len(groups)
    without = [_log_ratio([pair for j, group in enumerate(groups) if j != i for pair in group]) for i in range(count)]
    mean = fmean(without)
    return _t_factor(count - 1) * math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in without))


def _pair_half_width(pairs: Pairs, logs: Logs) -> float:
    """Jackknife over pairs, wider where neighbours resemble each other and so tell less each."""
    correlation = max(0.0, _lag_one_correlation(logs))
    return _jackknife_half_width([[pair] for pair in pairs]) * math.sqrt((1 + correlation) / (1 - correlation))


def _residuals(groups: Logs) -> list[list[float]]:
    return [[value - fmean(group) for value in group] for group in groups]


def _lag_one_correlation(logs: Logs) -> float:
    """Return the correlation of neighbouring pairs within their restart, held below 1."""
    groups = _residuals(logs)
    square = sum(value * value for group in groups for value in group)
    product = sum(left * right for group in groups for left, right in pairwise(group))
    return min(0.9, product / square) if square > 0.0 else 0.0


def _distrust(pairs: Pairs, logs: Logs, pairs_min: int, bursts: tuple[float, float] | None) -> str | None:
    """Return why the interval cannot be trusted, or None."""
    if len(pairs) < pairs_min:
        return f"{len(pairs)} slice pairs, {pairs_min} needed"
    if len(logs) < STARTS_MIN:
        return f"{len(logs)} start of both sides, {STARTS_MIN} needed: what differs between starts is not in it"
    if bursts is not None:
        means = fmean(pair.baseline_samples for pair in pairs), fmean(pair.contender_samples for pair in pairs)
        counts = [samples / burst for samples, burst in zip(means, bursts, strict=True) if burst > 0]
        count = min(counts, default=math.inf)
        if count < BURSTS_MIN:
            return f"slices too coarse: {count:.1f} bursts of num_workers batches, {BURSTS_MIN} needed"
    return _drift(logs, len(pairs))


def _drift(logs: Logs, count: int) -> str | None:
    """Return how the ratio moved, or None: a straight trend, or neighbours too alike for chance."""
    freedom = count - len(logs) - 1
    if freedom < 1:
        return None
    # Independent residuals have lag-one correlation -groups / n, give or take 1 / sqrt(n).
    excess = (_lag_one_correlation(logs) + len(logs) / count) * math.sqrt(count)
    if excess > NormalDist().inv_cdf(1 - DRIFT_P):
        return "the ratio drifted: neighbouring slice pairs are more alike than chance allows"
    # Starts that differ make a trend over the whole duel too; it is drift where the starts themselves have its like.
    slope, within = _trend(logs, freedom)
    _, whole = _trend([[value for group in logs for value in group]], count - 2)
    is_clear = abs(within) > student_t_quantile(1 - DRIFT_P / 2, freedom)
    agrees = within * whole > 0.0 and abs(within) > student_t_quantile(1 - DRIFT_AGREES_P, freedom)
    if is_clear or (agrees and abs(whole) > student_t_quantile(1 - DRIFT_P / 2, count - 2)):
        return f"the ratio drifted by {100 * slope:+.1f} % a slice pair"
    return None


def _trend(groups: Logs, freedom: int) -> tuple[float, float]:
    """Return the slope from pair to pair, each group about its own mean, and its t value."""
    ys = [value for group in _residuals(groups) for value in group]
    xs = [place - (len(group) - 1) / 2 for group in groups for place in range(len(group))]
    square = sum(x * x for x in xs)
    slope = sum(x * y for x, y in zip(xs, ys, strict=True)) / square if square else 0.0
    rest = sum((y - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, slope * math.sqrt(square * freedom / (rest + 1e-18))
