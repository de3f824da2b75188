"""Does the search keep what is promised of it, against the oracle, the loop and every rival? Pure.

Two answers are compared through the oracle's best, which both were set against in a duel: the ratio of their shares,
with the standard errors of both and Welch's degrees of freedom.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

from benchmarks.record import Criterion, Row
from benchmarks.tuning_rows import EXACT, Share, Unit, read_units
from benchmarks.tuning_settings import WAITING
from loadtune.stats import CONFIDENCE, student_t_quantile

OURS, LOOP = "loadtune", "doubling loop"
MEASURING = (OURS, LOOP, "loadtune 0.3.0", "Optuna TPE", "random order", "full grid")
"""Those whose answer gets better with time."""
NAMES = (*MEASURING, "16 always", "32 always", "num_workers = cores", "cores - 1, largest batch")
ORACLES = ("full grid", "random order")
"""Compared, and no rivals: the one is what a search is measured by, the other what it must beat to have searched."""
SHARE_MEDIAN_MIN, SHARE_MIN = 0.97, 0.93
"""Median share of the oracle wanted; and what the upper end of no interval may lie below."""
DECIDED_WIDTH, DECIDED_SHARE_MIN = 0.06, 0.8
"""Width of an interval that decides, and how many comparisons must."""
MARGIN = 0.03
"""By how much no rival may be better: what the tie rule gives away."""
LEVEL = 0.05
"""Chance that any of all these tests calls a rival better that is not (Holm)."""
BETTER_WORLDS_MIN = 4
MEMORY_RATIO = 0.9
"""Memory below which an equally fast setting is better."""
TOLD_MAX = 12
"""Rivals that are told one by one."""
AFTER_S = (10, 20, 40, 90)
ANSWER_S = 45.0
"""When the median must be there."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The log ratio of two shares."""

    log_ratio: float
    error: float
    """Standard error; 0: known exactly."""
    freedom: int
    """Degrees of freedom of it; 0: known exactly."""

    @property
    def half_width(self) -> float:
        """Of the interval, in log space."""
        return student_t_quantile((1 + CONFIDENCE) / 2, self.freedom) * self.error if self.freedom else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The ratio's interval."""
        return math.exp(self.log_ratio - self.half_width), math.exp(self.log_ratio + self.half_width)


def compare(share: Share | None, other: Share | None) -> Comparison | None:
    """Return one share by the other; None where either is unknown or the other is 0."""
    if share is None or other is None or other.value <= 0.0:
        return None
    if share.value <= 0.0:
        return Comparison(-math.inf, 0.0, 0)
    errors = [_error(each) for each in (share, other)]
    if None in errors:
        return None
    known = [each for each in errors if each is not None and each[0] > 0.0]
    square = sum(error**2 for error, _ in known)
    freedom = max(1, int(square**2 / sum(error**4 / own for error, own in known))) if known else 0
    return Comparison(math.log(share.value / other.value), math.sqrt(square), freedom)


def _error(share: Share) -> tuple[float, int] | None:
    """Return the standard error of a log share and its degrees of freedom, as its interval was made."""
    half = share.log_half_width
    if half is None:
        return None
    freedom = max(1, share.starts - 1)
    return half / student_t_quantile((1 + CONFIDENCE) / 2, freedom), freedom


def p_value(comparison: Comparison, margin: float = MARGIN) -> float:
    """Return the chance of so high a ratio where the truth is just 1 + margin: one-sided, Student's t."""
    excess = comparison.log_ratio - math.log(1 + margin)
    if not comparison.freedom or comparison.error == 0.0:
        return 0.0 if excess > 0 else 1.0
    return tail(excess / comparison.error, comparison.freedom)


@lru_cache(maxsize=4096)
def tail(t: float, freedom: int) -> float:
    """Return P(T > t) of Student's t, to a relative error of 1e-3; below 1e-9 just that."""
    if t < 0:
        return 1.0 - tail(-t, freedom)
    low, high = math.log(1e-9), math.log(0.5)
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_quantile(1.0 - math.exp(middle), freedom) > t else (low, middle)
    return math.exp(high)


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Say of each hypothesis whether Holm's step-down procedure rejects it: together they err with `level` at most."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = [False] * len(p_values)
    for step, place in enumerate(order):
        if p_values[place] > level / (len(p_values) - step):
            break
        rejected[place] = True
    return rejected


def find_better(units: Sequence[Unit]) -> tuple[list[str], int]:
    """Return which rivals were better than ours by more than the margin and where, and how many tests were made.

    Rivals with the same answer are one test: it is a setting that is compared.
    """
    tests: list[tuple[str, float]] = []
    for unit in units:
        ours = unit.answers[OURS].point
        names: dict[tuple[int, int], list[str]] = {}
        for name, answer in unit.answers.items():
            if name not in {OURS, *ORACLES} and answer.point != ours:
                names.setdefault(answer.point, []).append(name)
        for point, who in names.items():
            found = compare(unit.share(point), unit.share(ours))
            if found is not None:
                tests.append((f"{' and '.join(who)} on {_name(unit)}: {math.exp(found.log_ratio):.2f}", p_value(found)))
    rejected = holm([p for _, p in tests])
    return [told for (told, _), is_better in zip(tests, rejected, strict=True) if is_better], len(tests)


def judge(rows: Sequence[Row]) -> list[Criterion]:
    """Return what the rows of the units that are done show of the promises."""
    units = [unit for unit in read_units(rows) if {OURS, LOOP} <= unit.answers.keys()]
    shares = [(unit, unit.share(unit.answers[OURS].point)) for unit in units]
    known = [share for _, share in shares if share is not None]
    decided = [float(_is_decided(share)) for _, share in shares]
    waiting = [float(_is_decided(share)) for unit, share in shares if unit.rows[0]["world"] in WAITING]
    by_loop = [each for unit in units if (each := _by_loop(unit)) is not None]
    sooner = [unit.answers[OURS].seconds / max(0.1, unit.answers[LOOP].seconds) for unit in units]
    better, count = find_better(units)
    at = [_stood(unit, OURS, ANSWER_S) for unit in units]
    worlds = [float(len(better_worlds(units)))] if units else []
    return [
        _criterion("share of the oracle, median", [share.value for share in known], median,
                   lambda x: x >= SHARE_MEDIAN_MIN, "at least 0.97"),
        _criterion("upper ends of the shares", [share.high for share in known if share.high is not None], min,
                   lambda x: x >= SHARE_MIN, "none below 0.93"),
        _criterion("comparisons decided", decided, _mean, lambda x: x >= DECIDED_SHARE_MIN,
                   "at least 80 %, intervals at most 6 % wide"),
        _criterion("of these waiting and device-bound", waiting, _mean, lambda x: x == 1.0, "all"),
        _criterion("rivals better by more than 3 %", [float(len(better))] if count else [], max, lambda x: x == 0,
                   f"none of {count} comparisons (Holm, 5 %)"),
        _criterion("by the doubling loop's share, upper ends", [each.interval[1] for each in by_loop], min,
                   lambda x: x >= 1 - MARGIN, "never demonstrably more than 3 % below"),
        _criterion("seconds to the answer by the loop's, median", sooner, median, lambda x: x <= 1.0, "at most 1"),
        _criterion("workloads strictly better than the loop", worlds, min, lambda x: x >= BETTER_WORLDS_MIN,
                   "in throughput, or in RAM at equal throughput, on at least 4"),
        _criterion("share of the oracle after 45 s, median", at, median, lambda x: x >= SHARE_MEDIAN_MIN,
                   "at least 0.97"),
        _criterion("steps of the grid above the cheapest good setting", [_steps_above(unit) for unit in units], max,
                   lambda x: x <= 1, "at most 1"),
    ]  # fmt: skip


def better_worlds(units: Sequence[Unit]) -> list[str]:
    """Return the worlds on most of whose seeds ours is strictly better than the doubling loop's answer."""
    found: dict[str, list[bool]] = {}
    for unit in units:
        found.setdefault(unit.rows[0]["world"], []).append(_is_better(unit))
    return [world for world, seeds in found.items() if sum(seeds) > len(seeds) / 2]


def _is_better(unit: Unit) -> bool:
    """Faster by more than 3 per cent, demonstrably faster at all; or as fast with a tenth less memory."""
    found = _by_loop(unit)
    if found is None:
        return False
    if found.interval[0] > 1.0 and found.log_ratio > math.log(1 + MARGIN):
        return True
    ours, theirs = (unit.memory_bytes(unit.answers[name].point) for name in (OURS, LOOP))
    is_equal = found.log_ratio >= math.log(1 - MARGIN)
    return is_equal and ours is not None and theirs is not None and ours < MEMORY_RATIO * theirs


def _by_loop(unit: Unit) -> Comparison | None:
    ours, theirs = (unit.answers[name].point for name in (OURS, LOOP))
    return Comparison(0.0, 0.0, 0) if ours == theirs else compare(unit.share(ours), unit.share(theirs))


def _is_decided(share: Share | None) -> bool:
    return share is not None and share.width is not None and share.width <= DECIDED_WIDTH


def _steps_above(unit: Unit) -> float:
    """Return how many steps of the grid the answer lies above the cheapest setting within 3 per cent of the best."""
    return float(sum(unit.cheapest < workers <= unit.answers[OURS].point[0] for workers in unit.steps))


def _stood(unit: Unit, name: str, seconds: float) -> float:
    """Return the share of what stood then; 0 where nothing did."""
    point = unit.answers[name].at(seconds)
    return 0.0 if point is None else unit.rough_share(point) or 0.0


def stood(units: Sequence[Unit], name: str, seconds: float) -> float | None:
    """Return the median share of what a contestant had after so many seconds; None: it was never asked."""
    shares = [_stood(unit, name, seconds) for unit in units if name in unit.answers]
    return median(shares) if shares else None


def falls_short(unit: Unit) -> bool:
    """Say whether our answer is below what any single unit may have, or takes more workers than it may."""
    return (unit.rough_share(unit.answers[OURS].point) or 0.0) < SHARE_MIN or _steps_above(unit) > 1


def tabulate(rows: Sequence[Row], is_shown: Callable[[Unit], bool] = lambda unit: True) -> Iterator[str]:
    """Yield a line a unit that is to be shown, a line a contestant, and what was not run."""
    units = [unit for unit in read_units(rows) if {OURS, LOOP} <= unit.answers.keys()]
    for unit in filter(is_shown, units):
        told = [f"{name.partition(' ')[0]:8} {_tell(unit, name)}" for name in (OURS, LOOP)]
        best = f"{unit.best[0]}x{unit.best[1]}"
        yield f"{_name(unit):24} best {best:6} cheapest {unit.cheapest:2} | {' | '.join(told)} | {unit.seconds:4.0f} s"
    yield f"{'share of the oracle':26}{'units':>6}{'median':>8}{'least':>8}" + "".join(
        f"{f'{s} s':>8}" for s in AFTER_S
    )
    for name in NAMES:
        own = [unit.rough_share(unit.answers[name].point) for unit in units if name in unit.answers]
        known = [share for share in own if share is not None]
        if known:
            course = "".join(f"{stood(units, name, after) or 0.0:8.3f}" for after in AFTER_S)
            yield f"{name:26}{len(known):6}{median(known):8.3f}{min(known):8.3f}{course}"
    lacking = ((row["quantity"], row["world"], row["reason"]) for row in rows if row["part"] == "lacking")
    told = ((world if name == "world" else name, why) for name, world, why in lacking)
    yield from (f"not run: {name}: {why}" for name, why in dict.fromkeys(told))
    if units:
        short = sum(map(falls_short, units))
        yield f"ours below {SHARE_MIN:g} of the oracle, or more than a step too dear: {short} of {len(units)}"
        yield f"better than the loop on: {', '.join(better_worlds(units)) or 'none'}"
        better = find_better(units)[0]
        yield from (f"better than ours by more than 3 %: {told}" for told in better[:TOLD_MAX])
        if len(better) > TOLD_MAX:
            yield f"and {len(better) - TOLD_MAX} more"


def _tell(unit: Unit, name: str) -> str:
    answer, share = unit.answers[name], unit.share(unit.answers[name].point)
    told = "not told"
    if share is not None:
        ends = "" if share.low is None or share == EXACT else f" [{share.low:.3f} {share.high:.3f}]"
        told = f"{share.value:.3f}{ends}"
    return f"{answer.point[0]:2}x{answer.point[1]:<3} {told:19} {answer.seconds:4.0f} s"


def _name(unit: Unit) -> str:
    return f"{unit.rows[0]['world']} {unit.rows[0]['seed']}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _criterion(
    name: str,
    values: Sequence[float],
    pick: Callable[[Sequence[float]], float],
    holds: Callable[[float], bool],
    target: str,
) -> Criterion:
    if not values:
        return Criterion(name, target, None, None, None, None)
    value = pick(values)
    return Criterion(name, target, round(value, 4), min(values), max(values), holds(value))
