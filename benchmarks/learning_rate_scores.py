"""Is a run at another batch size equivalent to the base run? Pure arithmetic over the rows of `learning_rate`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from benchmarks.record import Criterion
from loadtune.stats import student_t_quantile

LEVEL = 0.05
"""Of each of the two one-sided tests."""
MARGIN_SDS = 1.0
"""How far apart equivalent runs may be, in standard deviations between the base run's seeds."""
RATE_RATIO_MAX = 2.0
"""How far from the curve's best our rate may lie: one step of the curve, which doubles."""
PAIRS_MIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """A variant against the base run, in standard deviations between the base run's seeds."""

    difference_sds: float | None
    """Mean paired difference; positive is a larger loss. None: a run diverged."""
    low_sds: float | None = None
    high_sds: float | None = None
    """The 90 % interval, which is what two one-sided tests at 5 % look at."""
    is_equivalent: bool = False
    pairs: int = 0


def compare(base: Sequence[float | None], variant: Sequence[float | None]) -> Equivalence:
    """Return whether a variant is equivalent to the base run, seed by seed.

    Args:
        base: Loss of each seed's base run.
        variant: Loss of the same seeds' runs; None: it diverged, and then nothing is equivalent.

    Raises:
        ValueError: The seeds do not match, or a base run diverged.
    """
    known = [value for value in base if value is not None]
    if len(known) < PAIRS_MIN or len(known) != len(base) or len(base) != len(variant):
        raise ValueError(f"{len(known)} base runs of {len(base)} for {len(variant)} runs")
    differences = [theirs - ours for theirs, ours in zip(variant, known, strict=True) if theirs is not None]
    if len(differences) < len(variant):
        return Equivalence(difference_sds=None, pairs=len(differences))
    spread = stdev(known)
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    reach = student_t_quantile(1 - LEVEL, len(differences) - 1) * error
    low, high = (mean - reach) / spread, (mean + reach) / spread
    return Equivalence(
        difference_sds=mean / spread,
        low_sds=low,
        high_sds=high,
        is_equivalent=low > -MARGIN_SDS and high < MARGIN_SDS,
        pairs=len(differences),
    )


def losses(record: dict[str, Any], optimizer: str, variant: str) -> dict[int, float | None]:
    """Return the loss that is judged, by seed."""
    return {
        row["seed"]: row["value"]
        for row in record["rows"]
        if row.get("optimizer") == optimizer and row["variant"] == f"{optimizer}, {variant}" and row.get("is_judged")
    }


def equivalence(record: dict[str, Any], optimizer: str, variant: str) -> Equivalence | None:
    """Return a variant against the base run over the seeds that both have; None: fewer than two."""
    base, other = losses(record, optimizer, "base"), losses(record, optimizer, variant)
    shared = sorted(base.keys() & other.keys())
    if len(shared) < PAIRS_MIN:
        return None
    return compare([base[seed] for seed in shared], [other[seed] for seed in shared])


def best_of_curve(record: dict[str, Any], optimizer: str) -> float | None:
    """Return the rate of the curve whose median loss is least; None: there is no curve."""
    curve: dict[float, list[float]] = {}
    for row in record["rows"]:
        if row.get("optimizer") == optimizer and row.get("is_curve") and row.get("is_judged"):
            curve.setdefault(row["rate"], []).append(math.inf if row["value"] is None else row["value"])
    return min(curve, key=lambda rate: median(curve[rate])) if curve else None


def judge(record: dict[str, Any], optimizers: Sequence[str], seeds: int) -> list[Criterion]:
    """Return what the rows show of the promises.

    Args:
        record: Of `learning_rate`.
        optimizers: Names as in the rows.
        seeds: Seeds without which nothing is judged.
    """
    found = []
    for name in optimizers:
        found += [
            _is_equivalent(record, name, seeds),
            *(_control_fails(record, name, variant, seeds) for variant in ("4B, nothing", "4B, ten times")),
            _rate_is_near(record, name, seeds),
            _was_warned(record, name, seeds),
            _no_false_alarm(record, name, seeds),
        ]
    return found


def _is_equivalent(record: dict[str, Any], optimizer: str, seeds: int) -> Criterion:
    found = equivalence(record, optimizer, "4B, ours")
    met = None if found is None or found.pairs < seeds else found.is_equivalent
    return _criterion(f"{optimizer}, 4B, ours: loss by the base run's", "90 % interval within 1 sd", found, met)


def _control_fails(record: dict[str, Any], optimizer: str, variant: str, seeds: int) -> Criterion:
    found = equivalence(record, optimizer, variant)
    seen = len(losses(record, optimizer, variant))
    met = None if found is None or seen < seeds else not found.is_equivalent
    return _criterion(f"{optimizer}, {variant}: fails that test", "not within 1 sd", found, met)


def _criterion(name: str, target: str, found: Equivalence | None, met: bool | None) -> Criterion:
    if found is None:
        return Criterion(name, target, None, None, None, None)
    return Criterion(name, target, found.difference_sds, found.low_sds, found.high_sds, met)


def _rate_is_near(record: dict[str, Any], optimizer: str, seeds: int) -> Criterion:
    name, target = f"{optimizer}, 4B: our rate by the curve's best", f"within a factor of {RATE_RATIO_MAX:g}"
    best = best_of_curve(record, optimizer)
    ours = [
        row["rate"]
        for row in record["rows"]
        if row.get("optimizer") == optimizer and row["variant"] == f"{optimizer}, 4B, ours"
    ]
    if best is None or not ours:
        return Criterion(name, target, None, None, None, None)
    ratio = ours[0] / best
    is_whole = len(losses(record, optimizer, "4B, ours")) >= seeds
    # The curve doubles: a hair of rounding must not decide.
    met = abs(math.log(ratio)) <= math.log(RATE_RATIO_MAX) + 1e-9
    return Criterion(name, target, ratio, ratio, ratio, met if is_whole else None)


def _was_warned(record: dict[str, Any], optimizer: str, seeds: int) -> Criterion:
    found, warned = equivalence(record, optimizer, "16B, ours"), _is_warned(record, optimizer, "16B, ours")
    name = f"{optimizer}, 16B, ours: not equivalent, and {'' if warned else 'not '}said beforehand"
    if found is not None and found.is_equivalent:
        name = f"{optimizer}, 16B, ours: equivalent, {'though' if warned else 'and not'} warned of"
    seen = len(losses(record, optimizer, "16B, ours"))
    met = None if found is None or seen < seeds else found.is_equivalent or warned
    return _criterion(name, "equivalent, or our warning said so", found, met)


def _no_false_alarm(record: dict[str, Any], optimizer: str, seeds: int) -> Criterion:
    """Without it, a warning at every batch size would keep the promise above."""
    found, warned = equivalence(record, optimizer, "4B, ours"), _is_warned(record, optimizer, "4B, ours")
    met = None if found is None or found.pairs < seeds else not (warned and found.is_equivalent)
    return _criterion(f"{optimizer}, 4B, ours: not warned of if equivalent", "no false alarm", found, met)


def _is_warned(record: dict[str, Any], optimizer: str, variant: str) -> bool:
    return any(
        row.get("warned")
        for row in record["rows"]
        if row.get("optimizer") == optimizer and row["variant"] == f"{optimizer}, {variant}"
    )
