"""What do the rows of one world and seed say? The oracle's table, everyone's answers, and shares of the oracle. Pure.

A row is a trial of the grid, an answer, a duel of an answer against the oracle's best, or something that was not run
with its reason. Nothing here is measured or judged.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from benchmarks.record import Row
from benchmarks.tuning_rivals import Answer, Look
from benchmarks.tuning_settings import Point

TIE = 0.97
"""Share of the best from which a setting counts as good enough, as in the product's own tie rule."""


@dataclass(frozen=True, slots=True)
class Share:
    """A setting's rate by the oracle's."""

    value: float
    low: float | None = None
    """None: from the oracle's table, or a setting compared with itself only in name; no interval."""
    high: float | None = None
    starts: int = 0
    """Starts of both sides that the interval rests on; 0: exact."""

    @property
    def width(self) -> float | None:
        """Of the interval."""
        return None if self.low is None or self.high is None else self.high - self.low

    @property
    def log_half_width(self) -> float | None:
        """Half the interval in log space, as it was made."""
        if self.low is None or self.high is None or self.low <= 0.0:
            return None
        return math.log(self.high / self.low) / 2


EXACT = Share(1.0, 1.0, 1.0)
FAILED = Share(0.0, 0.0, 0.0)
"""A setting that could not be run: out of memory, mostly."""


class Unit:
    """One world and seed.

    Args:
        rows: Its own, and no others.

    Attributes:
        looks: The first look at every setting of the grid, in the order measured: samples a second, seconds.
        rates: Mean rate of every setting that was measured; 0 where it failed.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.looks: dict[Point, Look] = {}
        found: dict[Point, list[float]] = {}
        self._oracle: set[Point] = set()
        for row in _of(rows, "grid"):
            found.setdefault(point_of(row), []).append(row["value"] or 0.0)
            if not row["is_extra"]:
                self._oracle.add(point_of(row))
                if row["round"] == 0:
                    self.looks[point_of(row)] = row["value"] or 0.0, row["seconds"]
        self.rates = {point: fmean(rates) if all(rates) else 0.0 for point, rates in found.items()}

    @property
    def best(self) -> Point:
        """The oracle's setting: the fastest of its grid."""
        return max(sorted(self._oracle), key=lambda point: self.rates[point])

    @property
    def cheapest(self) -> int:
        """The fewest workers with which the grid has a setting within 3 per cent of the best."""
        enough = TIE * self.rates[self.best]
        return min(point[0] for point in self._oracle if self.rates[point] >= enough)

    @property
    def steps(self) -> list[int]:
        """Worker counts of the grid."""
        return sorted({point[0] for point in self._oracle})

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Everyone's answer, by name."""
        return {
            row["quantity"]: Answer(
                point_of(row), row["value"], [(when, (point[0], point[1])) for when, point in row["course"]]
            )
            for row in _of(self.rows, "answer")
        }

    @cached_property
    def is_done(self) -> bool:
        """Whether all of it was measured."""
        return any(True for _ in _of(self.rows, "done"))

    @property
    def seconds(self) -> float:
        """What measuring it took, all pieces together."""
        return sum(row["value"] for row in _of(self.rows, "spent"))

    def memory_bytes(self, point: Point) -> int | None:
        """Return the most memory that a trial of a setting took."""
        known = [row["pss_bytes"] for row in _of(self.rows, "grid") if point_of(row) == point and row["pss_bytes"]]
        return max(known, default=None)

    def share(self, point: Point) -> Share | None:
        """Return a setting's share of the oracle, by its duel; None where the duel told nothing.

        The oracle is the best of what is known: where a duel showed an answer faster than the grid's best, that is it.
        """
        level = max((s.value for s in self._duels.values() if s is not None and (s.low or 0.0) > 1.0), default=1.0)
        share = self._duels.get(point)
        if point == self.best:
            share = EXACT
        elif self.rates.get(point) == 0.0:
            share = FAILED
        return None if share is None else _scaled(share, level)

    def rough_share(self, point: Point) -> float | None:
        """Return the share by the duel, or else by the oracle's table: what stood for a moment needs no duel."""
        share = self.share(point)
        if share is not None:
            return share.value
        rate = self.rates.get(point)
        return None if rate is None else rate / self.rates[self.best]

    @cached_property
    def _duels(self) -> dict[Point, Share | None]:
        return {
            point_of(row): None
            if row["value"] is None
            else Share(row["value"], row["low"], row["high"], row.get("starts", 0))
            for row in _of(self.rows, "duel")
        }


def select(rows: Iterable[Row], **keys: object) -> list[Row]:
    """Return the rows with these keys."""
    return [row for row in rows if keys.items() <= row.items()]


def read_units(rows: Iterable[Row]) -> list[Unit]:
    """Return the units that are done, in the order they were begun."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["world"], row["seed"]), []).append(row)
    return [unit for own in found.values() if (unit := Unit(own)).is_done]


def point_of(row: Row) -> Point:
    """Return the setting that a row is of."""
    return row["num_workers"], row["batch_size"]


def _of(rows: Iterable[Row], part: str) -> Iterator[Row]:
    return (row for row in rows if row["part"] == part)


def _scaled(share: Share, level: float) -> Share:
    if level == 1.0 or share.low is None or share.high is None:
        return replace(share, value=share.value / level)
    return replace(share, value=share.value / level, low=share.low / level, high=share.high / level)
