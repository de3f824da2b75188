"""How near to the oracle does everyone come, and how soon? Pure arithmetic over the rows that `tuning` saved."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks.record import Criterion, Row

SHARE_MEDIAN_MIN, SHARE_MIN = 0.97, 0.93
"""Median share of the oracle wanted; and what the upper end of no interval may lie below."""
DECIDED_WIDTH, DECIDED_SHARE_MIN = 0.06, 0.8
"""Width of an interval that decides, and how many comparisons must."""
BETTER = 0.03
"""By how much no rival may be better, or slower than the doubling loop be."""
NAMES = (
    "loadtune",
    "doubling loop",
    "16 always",
    "32 always",
    "torch's suggestion, num_workers = cores",
    "Lightning's rule, cores - 1",
    "Optuna TPE",
    "full grid",
)
AFTER_S = (10, 20, 40, 90)


def answers(rows: Sequence[Row], name: str) -> list[Row]:
    """Return the rows of one contestant, one a unit."""
    return [row for row in rows if row["quantity"] == name]


def judge(rows: Sequence[Row]) -> list[Criterion]:
    """Return what the rows show of the promises."""
    ours = answers(rows, "loadtune")
    loop = {(row["world"], row["seed"]): row for row in answers(rows, "doubling loop")}
    shares = [row["value"] for row in ours if row["value"] is not None]
    highs = [row["high"] for row in ours if row["high"] is not None]
    widths = [row["high"] - row["low"] for row in ours if row["high"] is not None]
    decided = sum(width <= DECIDED_WIDTH for width in widths) / len(ours) if ours else None
    behind = [_by_loop(row, loop) for row in ours]
    sooner = [row["seconds"] / max(0.1, loop[row["world"], row["seed"]]["seconds"]) for row in ours]
    better = sum(_is_better(row, loop[row["world"], row["seed"]]) for row in ours)
    extra = [_steps_above(row) for row in ours]
    at_40 = [row["course"]["40"] for row in ours if row["course"]["40"] is not None]
    return [
        _criterion("share of the oracle, median", shares, median, lambda x: x >= SHARE_MEDIAN_MIN, "at least 0.97"),
        _criterion("none demonstrably below", highs, min, lambda x: x >= SHARE_MIN, "upper ends at least 0.93"),
        _criterion("comparisons decided", [] if decided is None else [decided], min, lambda x: x >= DECIDED_SHARE_MIN,
                   "at least 80 %, intervals at most 6 % wide"),
        _criterion("by the doubling loop's share, least", [x for x in behind if x is not None], min,
                   lambda x: x >= 1 - BETTER, "never more than 3 % below"),
        _criterion("seconds to the answer by the loop's, median", sooner, median, lambda x: x <= 1.0, "at most 1"),
        _criterion("strictly better than the loop", [float(better)] if ours else [], min, lambda x: x >= 4,
                   "in throughput, or in RAM at equal throughput, on at least 4"),
        _criterion("steps of the grid above the cheapest good setting", [float(x) for x in extra], max,
                   lambda x: x <= 1, "at most 1"),
        _criterion("share of the oracle after 40 s, median", at_40, median, lambda x: x >= SHARE_MEDIAN_MIN,
                   "at least 0.97"),
    ]  # fmt: skip


def _criterion(name: str, values: Sequence[float], pick: Any, holds: Any, target: str) -> Criterion:
    if not values:
        return Criterion(name, target, None, None, None, None)
    value = pick(values)
    return Criterion(name, target, round(value, 4), min(values), max(values), bool(holds(value)))


def _by_loop(row: Row, loop: dict[tuple[str, int], Row]) -> float | None:
    other = loop[row["world"], row["seed"]]["value"]
    return None if row["value"] is None or not other else row["value"] / other


def _is_better(row: Row, other: Row) -> bool:
    """Faster by more than 3 per cent with intervals apart, or as fast with a tenth less memory."""
    if row["value"] is None or other["value"] is None:
        return False
    if row["low"] > other["high"] and row["value"] > (1 + BETTER) * other["value"]:
        return True
    memory = (row["pss_bytes"], other["pss_bytes"])
    is_equal = row["value"] >= (1 - BETTER) * other["value"]
    return is_equal and None not in memory and memory[0] < 0.9 * memory[1]


def _steps_above(row: Row) -> int:
    """Return how many steps of the grid the answer lies above the cheapest setting within 3 per cent of the best."""
    from benchmarks.tuning import GRID

    return sum(row["cheapest"] < workers <= row["workers"] for workers in GRID)


def tabulate(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line a unit and a line a contestant."""
    for row in answers(rows, "loadtune"):
        loop = next(r for r in answers(rows, "doubling loop") if (r["world"], r["seed"]) == (row["world"], row["seed"]))
        yield (
            f"{row['world']:20} {row['seed']:4} best {row['best']:3} cheapest {row['cheapest']:3} | "
            f"ours {row['workers']:3} {_share(row)} {row['seconds']:5.1f} s | "
            f"loop {loop['workers']:3} {_share(loop)} {loop['seconds']:5.1f} s"
        )
    yield f"{'':42}{'median':>8}{'least':>8}" + "".join(f"{f'{after} s':>8}" for after in AFTER_S)
    for name in NAMES:
        own = [row for row in answers(rows, name) if row["value"] is not None]
        if own:
            values = [row["value"] for row in own]
            course = [median(row["course"][str(after)] or 0.0 for row in own) for after in AFTER_S]
            yield f"{name:42}{median(values):8.3f}{min(values):8.3f}" + "".join(f"{share:8.3f}" for share in course)


def _share(row: Row) -> str:
    if row["value"] is None:
        return "not told"
    return f"{row['value']:.3f} [{row['low']:.3f} {row['high']:.3f}]"
