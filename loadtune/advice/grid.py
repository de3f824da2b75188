"""Every setting of a grid: the plain search, which pays for every cell and assumes nothing of the workload."""

import dataclasses
import random
from collections.abc import Callable, Sequence

from loadtune.advice.feasibility import Obstacle
from loadtune.advice.search import MEASURE_MAX_S, MEASURE_MIN_S, Ledger, Leg, describe, with_axes
from loadtune.records.measurement import TrialResult
from loadtune.records.report import SearchSummary
from loadtune.records.settings import Settings

ROUNDS_MAX = 3
"""Three rounds and the pooled noise tell a tie from a loss; a fourth gives the duel's seconds away."""
HOPELESS_RATIO = 0.75
"""Settings below this share of the best are not repeated: rounds differ by 2 to 8 %, so a quarter is out of
the noise's reach and of the tie rule's."""
EDGE_GAIN_RATIO = 1.03
"""The edge is extended where it beats the rest by more than the tie rule forgives; less is a plateau."""


class GridSearch:
    """Every setting of the grid once a round, in changing order, each round with the baseline as its control.

    The first round opens with what every answer needs: the baseline end to end, the device on a resident
    batch, the loader alone. Then the user's batch size comes before other batch sizes, and beyond an edge
    that is the best, one more point at a time. Later rounds repeat what may still win.

    Args:
        baseline: What the user runs today; the control of every round. Its other fields hold for all
        settings.
        num_workers: Worker counts of the grid; 0 is added, as a row that everybody knows.
        batch_sizes: Batch sizes of the grid; the baseline's is added.
        may_extend_workers: Whether a worker count beyond the largest may be tried.
        may_extend_batch: Whether a batch size beyond the largest may be tried.
        workers_max: Largest worker count to extend to.
        batch_max: Largest batch size to extend to.
        obstacle: What forbids a setting (memory, file descriptors, cores), or None.
        measure_device: Whether to measure the device alone; not where the device has no rate of its own.
        loader_alone: Worker counts to measure with nothing consuming; None: the baseline's, or 1.
        spare_cores: Cores that others may take without disturbing a trial, which may not use them.
        seed: Of the orders.
    """

    def __init__(
        self,
        baseline: Settings,
        num_workers: Sequence[int],
        batch_sizes: Sequence[int],
        *,
        may_extend_workers: bool = False,
        may_extend_batch: bool = False,
        workers_max: int = 64,
        batch_max: int = 1024,
        obstacle: Callable[[Settings], Obstacle | None] = lambda settings: None,
        measure_device: bool = True,
        loader_alone: Sequence[int] | None = None,
        spare_cores: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._baseline = baseline
        self._workers_limit = workers_max if may_extend_workers else 0
        self._batch_limit = batch_max if may_extend_batch else 0
        self._ledger = Ledger(obstacle, spare_cores)
        self._random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._round = 0
        self._rounds_planned = 1
        self._asked: Leg | None = None
        self._short_s: float | None = None
        self._no_round = ""
        loader_alone = (max(1, baseline.num_workers),) if loader_alone is None else loader_alone
        workers = sorted({0, *num_workers})
        self._settings_count = len(workers) * len({*batch_sizes, baseline.batch_size})
        self._queue = self._opening(measure_device, loader_alone) + self._own_batch(workers)
        # Larger batches need workers, so the counts come in falling order.
        self._others = [
            with_axes(baseline, count, batch_size)
            for batch_size in sorted(set(batch_sizes) - {baseline.batch_size})
            for count in reversed(workers)
        ]

    def ask(self, seconds_left: float) -> Leg | None:
        """Return the next leg, with the time that lets this round end and others follow; None: stop.

        A leg that the seconds do not suffice for stays first in the queue: whoever finds more of them asks again.
        """
        self._short_s, self._no_round = None, ""
        if not self._queue:
            self._queue = self._refill(seconds_left)
        if not self._queue:
            return None
        leg = self._queue[0]
        obstacle = self._ledger.forbidden(leg)
        if obstacle is not None:
            self._asked = self._queue.pop(0)
            return dataclasses.replace(leg, obstacle=obstacle)
        measure_s = self._measure_s(seconds_left)
        if self._ledger.overhead_s() + measure_s > seconds_left:
            self._short_s = seconds_left
            self._rounds_planned = self._round + 1
            return None
        self._asked = dataclasses.replace(self._queue.pop(0), measure_s=measure_s)
        return self._asked

    def tell(self, result: TrialResult) -> None:
        """Take in a result; what failed is not asked again."""
        self._ledger.enter(result, self._asked)
        self._asked = None

    def notes(self) -> tuple[str, ...]:
        """Return what was added, left out, and why the search stopped."""
        if self._short_s is None:
            return (*self._ledger.notes, self._no_round) if self._no_round else tuple(self._ledger.notes)
        left = ", ".join(describe(leg) for leg in self._queue)
        return (
            *self._ledger.notes,
            f"Not measured in round {self._round + 1}, {self._short_s:.0f} s were left: {left}.",
        )

    def planned(self) -> int:
        """Return the legs told, asked and queued, and those of the rounds that still fit."""
        if self._short_s is not None:
            return len(self._ledger.results)
        later = max(0, self._rounds_planned - 1 - self._round) * len(self._contenders())
        return len(self._ledger.results) + (self._asked is not None) + len(self._queue) + len(self._others) + later

    def summary(self) -> SearchSummary:
        """Return the size of the grid: nothing of it was expected."""
        return SearchSummary(kind="grid", settings_count=self._settings_count)

    def _opening(self, measure_device: bool, loader_alone: Sequence[int]) -> list[Leg]:
        legs = [Leg(settings=self._baseline, role="baseline")]
        if measure_device:
            legs.append(Leg(settings=self._baseline, role="ceiling", feed="resident"))
        batch_size = self._baseline.batch_size
        for workers in loader_alone:
            settings = with_axes(self._baseline, workers, batch_size)
            legs.append(Leg(settings=settings, role="loader", consume="nothing"))
        return legs

    def _own_batch(self, workers: Sequence[int]) -> list[Leg]:
        settings = [with_axes(self._baseline, count, self._baseline.batch_size) for count in workers]
        legs = [Leg(settings=each, role="grid") for each in settings if each != self._baseline]
        self._random.shuffle(legs)
        return legs

    def _refill(self, seconds_left: float) -> list[Leg]:
        """What comes when the queue is empty: edges and other batch sizes, then rounds, then the rest."""
        if self._round == 0 and (legs := self._beyond_the_edge() or self._other_batches()):
            return legs
        if legs := self._next_round(seconds_left):
            return legs
        rest, self._others = self._others, []
        return [Leg(settings=settings, role="grid", round=self._round) for settings in rest]

    def _other_batches(self) -> list[Leg]:
        """The other batch sizes at the worker counts that are not hopeless at the user's."""
        hopeful = {each.num_workers for each in self._contenders() if self._is_own(each)}
        chosen = [settings for settings in self._others if settings.num_workers in hopeful]
        self._others = [settings for settings in self._others if settings.num_workers not in hopeful]
        return [Leg(settings=settings, role="grid") for settings in chosen]

    def _is_own(self, settings: Settings) -> bool:
        return settings.batch_size == self._baseline.batch_size

    def _next_round(self, seconds_left: float) -> list[Leg]:
        """The control and what may still win, shuffled; nothing where a whole round does not fit."""
        contenders = self._contenders()
        self._rounds_planned = self._round + 1
        if self._round + 1 >= ROUNDS_MAX or len(contenders) < 2:
            return []
        if len(contenders) * (self._ledger.overhead_s() + MEASURE_MIN_S) > seconds_left:
            self._no_round = f"Round {self._round + 2} did not fit into the {seconds_left:.0f} s left."
            return []
        self._round += 1
        self._random.shuffle(contenders)
        return [
            Leg(settings=each, role="baseline" if each == self._baseline else "grid", round=self._round)
            for each in contenders
        ]

    def _contenders(self) -> list[Settings]:
        """The baseline, and every measured setting not hopelessly below the best at its batch size.

        A round is not repeated on account of a contender's own rate, but a slow trial that others disturbed proves
        nothing about its setting.
        """
        rates = self._ledger.rates()
        disturbed = {
            result.settings
            for result in self._ledger.results
            if result.round == 0 and self._ledger.is_disturbed(result)
        }
        best: dict[int, float] = {}
        for settings, rate in rates.items():
            best[settings.batch_size] = max(rate, best.get(settings.batch_size, 0.0))
        return [
            settings
            for settings, rate in rates.items()
            if settings == self._baseline or settings in disturbed or rate >= HOPELESS_RATIO * best[settings.batch_size]
        ]

    def _beyond_the_edge(self) -> list[Leg]:
        """One more point where the best lies at the edge, above the rest by more than a tie; else nothing."""
        rates, own = self._ledger.rates(), self._baseline.batch_size
        by_workers = {each.num_workers: rate for each, rate in rates.items() if self._is_own(each)}
        by_batch: dict[int, float] = {}
        for settings, rate in rates.items():
            by_batch[settings.batch_size] = max(rate, by_batch.get(settings.batch_size, 0.0))
        points = []
        if (edge := _rising_edge(by_workers)) is not None and edge < self._workers_limit:
            points.append(with_axes(self._baseline, min(max(1, 2 * edge), self._workers_limit), own))
        if (edge := _rising_edge(by_batch)) is not None and edge < self._batch_limit:
            best = max((s for s in rates if s.batch_size == edge), key=lambda settings: rates[settings])
            points.append(with_axes(best, best.num_workers, min(2 * edge, self._batch_limit)))
        points = [point for point in points if point not in self._ledger.tried()]
        for point in points:
            self._ledger.note(
                f"The best lay at the edge of the grid: added num_workers={point.num_workers}, "
                f"batch_size={point.batch_size}."
            )
        return [Leg(settings=point, role="grid") for point in points]

    def _measure_s(self, seconds_left: float) -> float:
        """Return the seconds in windows that let this round end, and as many more as fit."""
        queued = len(self._queue) + (len(self._others) if self._round == 0 else 0)
        in_a_round = max(len(self._contenders()), queued if self._round == 0 else 0)
        share_s = 0.0
        for rounds in range(ROUNDS_MAX, self._round, -1):
            legs = queued + (rounds - 1 - self._round) * in_a_round
            share_s = seconds_left / legs - self._ledger.overhead_s()
            self._rounds_planned = rounds
            if share_s >= MEASURE_MIN_S:
                break
        return min(MEASURE_MAX_S, max(MEASURE_MIN_S, share_s))


def _rising_edge(rates: dict[int, float]) -> int | None:
    """Return the largest point where it beats every smaller one by more than a tie; None elsewhere."""
    if len(rates) < 2:
        return None
    edge = max(rates)
    rest = max(rate for point, rate in rates.items() if point != edge)
    return edge if rates[edge] > EDGE_GAIN_RATIO * rest else None
