"""The search that asks for what matters: ceilings, then the settings that a model of them points to, then a race.

The model orders and prunes (`pipeline`); it is corrected by every result, and only measured settings may win. On the
worker axis the search brackets: upwards until the device, the cores or two steps without a gain explain why it goes no
further, downwards as long as fewer workers may do. So its trials grow with the logarithm of the space.
"""

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence

from loadtune.advice.expecting import Expectations
from loadtune.advice.feasibility import Obstacle
from loadtune.advice.screening import Screening
from loadtune.advice.search import MEASURE_MIN_S, Ledger, Leg, describe, with_axes
from loadtune.records.measurement import Role, TrialResult
from loadtune.records.report import Expectation, SearchSummary
from loadtune.records.settings import Settings
from loadtune.stats import TIE_RATIO

FED_RATIO = 0.95
"""Share of the device's own rate from which the loader is not the limit. Higher would chase the last per cents with
workers; lower would stop where a tie rule of 3 % still sees a difference twice over."""
GAIN_RATIO = 1.03
"""What a step up the ladder must win to count; less is a plateau, as for the tie rule."""
HOPE_RATIO = 0.7
"""Share of the best below which a predicted setting is not measured. The model errs by up to 42 % where cores run out,
but upwards: what it calls hopeless is."""
PATIENCE_STEPS = 2
"""Steps up without a gain after which the search stops where nothing explains the plateau: sharded data rise only
where the number of workers divides the shards anew."""
SATURATED_RATIO = 0.9
"""Share of the usable cores in use from which one step without a gain is enough."""
MAIN_BOUND_CORES = 0.85
"""Cores of the main process from which fewer workers may be faster, whatever the model says of them."""
LOOK_S = 1.5
"""Seconds in windows of a look. Longer ones narrow what differs within a run only; the next look sees the rest."""
WATCHED_LOOK_S = 2.8
"""The same for the first look at the baseline where a driver tells GPU utilisation: 12 of the samples that NVML keeps
each 0.2 s, which percentiles want, and a little over. Less, and whether the GPU jitters is not told of a baseline that
is looked at once."""
ROUNDS_MAX = 3
"""Looks at a contender; a fourth gives the duel's seconds away."""
CONTENDERS_MAX = 4
"""Settings in the race: more of them tie anyway, and each costs a leg a round."""
NEAR_RATIO, NEAR_BUSY_RATIO = 0.94, 0.9
"""Share of the best from which a cheaper setting may turn out to tie: looks at one setting differ by up to 3 %, and by
up to 8 % where it takes all cores. Higher would miss a tie by noise; lower looks again at what is plainly slower."""


class GuidedSearch:
    """Ceilings, climb, larger batches, race.

    Args:
        baseline: What the user runs today; the control of every round. Its other fields hold for all settings.
        ladder: Worker counts to choose from, 0 among them.
        batch_sizes: Batch sizes to choose from; the baseline's is among them.
        cores: Usable cores.
        obstacle: What forbids a setting (memory, file descriptors, cores), or None.
        spare_cores: Cores that others may take without disturbing a trial.
        is_watched: Whether a driver tells GPU utilisation, which takes longer to see than a rate.
        seed: Of the orders.

    Attributes:
        expectations: What the model says, and what was left out on account of it.
    """

    def __init__(
        self,
        baseline: Settings,
        ladder: Sequence[int],
        batch_sizes: Sequence[int],
        *,
        cores: float,
        obstacle: Callable[[Settings], Obstacle | None] = lambda settings: None,
        spare_cores: float = 0.0,
        is_watched: bool = False,
        seed: int = 0,
    ) -> None:
        self._baseline = baseline
        self._first_look_s = WATCHED_LOOK_S if is_watched else LOOK_S
        self._ladder = sorted({*ladder, baseline.num_workers})
        self._larger = sorted(size for size in set(batch_sizes) if size > baseline.batch_size)
        self._ledger = Ledger(obstacle, spare_cores)
        self.expectations = Expectations(self._ledger, baseline, cores)
        self._cores = cores
        self._random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self._seconds_left = 0.0
        self._legs = self._plan()
        self._pending: Leg | None = None
        self._asked: Leg | None = None
        self._short = ""
        self._is_fed = False

    def ask(self, seconds_left: float) -> Leg | None:
        """Return the next leg; None: nothing more to ask, or not in these seconds. With more of them, ask again."""
        self._seconds_left, self._short = seconds_left, ""
        if self._pending is None:
            self._pending = next(self._legs, None)
        leg = self._pending
        if leg is None:
            return None
        obstacle = self._ledger.forbidden(leg)
        if obstacle is None and self._ledger.overhead_s() + leg.measure_s > seconds_left:
            self._short = f"Not measured, {max(0.0, seconds_left):.0f} s were left: {describe(leg)}."
            return None
        self._pending = None
        self._asked = leg if obstacle is None else dataclasses.replace(leg, obstacle=obstacle)
        self.expectations.note_prediction(leg)
        return self._asked

    def tell(self, result: TrialResult) -> None:
        """Take in a result; what failed is not asked again."""
        self._ledger.enter(result, self._asked)
        self._asked = None

    def notes(self) -> tuple[str, ...]:
        """Return what was pruned, and why the search stopped."""
        return (*self._ledger.notes, self._short) if self._short else tuple(self._ledger.notes)

    def planned(self) -> int:
        """Return the legs told and asked, and the one that waits: what follows depends on them."""
        return len(self._ledger.results) + (self._asked is not None) + (self._pending is not None)

    def summary(self) -> SearchSummary:
        """Return what was expected of what was measured, and of what was left out."""
        count = len(self._ladder) * (1 + len(self._larger))
        told = self.expectations
        known = sorted({*told.predicted, *told.pruned}, key=lambda each: (each.batch_size, each.num_workers))
        return SearchSummary(
            kind="guided",
            settings_count=count,
            grid_s=self._ledger.grid_s(count),
            expectations=tuple(
                Expectation(
                    settings=each,
                    expected_rate_per_s=told.predicted.get(each, told.pruned.get(each, (None, None))[0]),
                    left_out=told.pruned.get(each, (None, None))[1],
                )
                for each in known
            ),
        )

    def _plan(self) -> Iterator[Leg | None]:
        """Yield leg after leg, each chosen by what is known then; None: the seconds do not suffice for what is next."""
        own = self._baseline.batch_size
        yield Leg(settings=self._baseline, role="baseline", measure_s=self._first_look_s)
        yield Leg(settings=self._baseline, role="ceiling", feed="resident", measure_s=MEASURE_MIN_S)
        self._is_fed = self._reached(own) >= FED_RATIO
        if self._is_fed:
            self._ledger.note(
                f"Your setting reaches {self._reached(own):.0%} of what the device does alone, copies counted in: the "
                f"loader is not the limit, and more workers were not tried at batch_size={own}."
            )
        if not self._is_fed or self._baseline.num_workers > 1 or self._larger:
            alone = with_axes(self._baseline, 1, own)
            yield Leg(settings=alone, role="loader", consume="nothing", measure_s=MEASURE_MIN_S)
        while (point := self._next_point(own)) is not None:
            yield Leg(settings=point, role="grid", measure_s=LOOK_S)
        yield from self._grow_batch()
        yield from self._climb_again()
        yield from self._race()

    # The climb ------------------------------------------------------------------------------------------------------

    def _next_point(self, batch_size: int) -> Settings | None:
        """Return the next worker count to look at; None where the best is bracketed, and nothing cheaper may tie."""
        rates = self._rates_by_workers(batch_size)
        tried = {each.num_workers for each in self._ledger.tried() if each.batch_size == batch_size}
        open_counts = [count for count in self._ladder if count not in tried and self._is_allowed(count, batch_size)]
        if not open_counts:
            return None
        if not rates:  # the baseline failed: begin where the model points, or with one worker
            return self._point(self.expectations.cheapest(open_counts, batch_size) or open_counts[0], batch_size)
        best = max(rates, key=lambda count: rates[count])
        chosen = (
            self._where_expected(rates, open_counts, best, batch_size)
            or self._above(rates, open_counts, best, batch_size)
            or self._below(rates, open_counts, best, batch_size)
        )
        return None if chosen is None else self._point(chosen[0], batch_size)

    def _where_expected(
        self, rates: dict[int, float], open_counts: list[int], best: int, batch_size: int
    ) -> tuple[int] | None:
        """The cheapest setting that the model expects to do as well as any, if that is more than was seen."""
        count = self.expectations.cheapest(self._ladder, batch_size)
        if count is None or count not in open_counts or self._is_reached(batch_size):
            return None
        gains = (self.expectations.rate_per_s(count, batch_size) or 0.0) > GAIN_RATIO * rates[best]
        return (count,) if gains else None

    def _above(self, rates: dict[int, float], open_counts: list[int], best: int, batch_size: int) -> tuple[int] | None:
        """The step nearest to twice the largest count, unless something explains why it goes no higher."""
        higher = [count for count in open_counts if count > max(rates)]
        if not higher or self._is_reached(batch_size):
            return None
        without_gain = sum(count > best for count in rates)
        if without_gain >= (1 if self._is_saturated(best, batch_size) else PATIENCE_STEPS):
            return None
        aim = 2 * max(1, *rates)
        return (min(higher, key=lambda count: (abs(count - aim), count)),)

    def _below(self, rates: dict[int, float], open_counts: list[int], best: int, batch_size: int) -> tuple[int] | None:
        """Between the cheapest count that ties and the next that does not: the least expected to tie, or the middle."""
        cheapest = min(count for count, rate in rates.items() if rate >= TIE_RATIO * rates[best])
        floor = max((count for count in rates if count < cheapest), default=-1)
        between = [count for count in open_counts if floor < count < cheapest]
        hopeful = [count for count in between if self._is_hopeful(count, rates[best], best, batch_size)]
        for count in sorted(set(between) - set(hopeful)):
            self.expectations.prune(self._point(count, batch_size), rates[best])
        expected = {count: self.expectations.rate_per_s(count, batch_size) or 0.0 for count in hopeful}
        ties = [count for count in hopeful if expected[count] >= TIE_RATIO * rates[best]]
        if not hopeful:
            return None
        return (ties[0],) if ties else (hopeful[len(hopeful) // 2],)

    def _is_hopeful(self, count: int, best_rate: float, best: int, batch_size: int) -> bool:
        expected = self.expectations.rate_per_s(count, batch_size)
        return expected is None or expected >= HOPE_RATIO * best_rate or self._is_main_bound(best, batch_size)

    def _is_saturated(self, count: int, batch_size: int) -> bool:
        used = self.expectations.used_cores(self._point(count, batch_size))
        return used is not None and used >= SATURATED_RATIO * self._cores

    def _is_main_bound(self, count: int, batch_size: int) -> bool:
        main = self.expectations.main_cores(self._point(count, batch_size))
        return main is not None and main >= MAIN_BOUND_CORES

    def _is_allowed(self, count: int, batch_size: int) -> bool:
        return self._ledger.forbidden(Leg(settings=self._point(count, batch_size), role="grid")) is None

    def _is_reached(self, batch_size: int) -> bool:
        """Say whether the best measured setting gets what the device can take."""
        return self._reached(batch_size) >= FED_RATIO

    def _reached(self, batch_size: int) -> float:
        """Return the best measured rate by the device's own, copies counted in; 0 where either is unknown."""
        device = self.expectations.device_rate_per_s(batch_size)
        rates = self._rates_by_workers(batch_size)
        return max(rates.values(), default=0.0) / device if device else 0.0

    def _rates_by_workers(self, batch_size: int) -> dict[int, float]:
        return {s.num_workers: rate for s, rate in self._ledger.rates().items() if s.batch_size == batch_size}

    def _point(self, count: int, batch_size: int) -> Settings:
        return with_axes(self._baseline, count, batch_size)

    # Larger batches -------------------------------------------------------------------------------------------------

    def _grow_batch(self) -> Iterator[Leg]:
        """Larger batches as long as the device gains by them and the loader can feed them."""
        before = self.expectations.device_rate_per_s(self._baseline.batch_size)
        for size in self._larger:
            yield Leg(settings=self._point(0, size), role="ceiling", feed="resident", measure_s=MEASURE_MIN_S)
            now = self.expectations.device_rate_per_s(size)
            if now is None or (before is not None and now < GAIN_RATIO * before):
                told = "could not be measured" if now is None or before is None else f"is {now / before:.2f} times that"
                self._ledger.note(
                    f"batch_size={size}: the device's rate {told} of the batch before, so it grows no more."
                )
                return
            before = now
            best = max(self._ledger.rates().values(), default=0.0)
            counts = [count for count in self._ladder if self._is_allowed(count, size)]
            if not counts:
                self._ledger.note(f"batch_size={size}: no number of workers that was asked for can run with it.")
                return
            count = self.expectations.cheapest(counts, size)
            if count is None:  # without a model: the workers that did best so far, or the nearest that can run
                usual = max(self._ledger.rates().items(), key=lambda each: each[1], default=(self._baseline, 0.0))[0]
                count = min(counts, key=lambda each: (abs(each - usual.num_workers), each))
            expected = self.expectations.rate_per_s(count, size)
            if expected is not None and expected < GAIN_RATIO * best:
                self._ledger.note(f"batch_size={size}: the loader cannot feed it ({expected:.4g} samples/s expected).")
                return
            yield Leg(settings=self._point(count, size), role="grid", measure_s=LOOK_S)

    def _climb_again(self) -> Iterator[Leg]:
        """Look for the workers that a larger batch wants, where one is ahead: the device asks more of the loader.

        Of the batches that tie, it is the one with which the device could take most.
        """
        rates = self._ledger.rates()
        best = max(rates.values(), default=0.0)
        sizes = {each.batch_size for each, rate in rates.items() if rate >= TIE_RATIO * best}
        size = max(sizes, key=lambda each: (self.expectations.device_rate_per_s(each) or 0.0, -each), default=0)
        if size <= self._baseline.batch_size:
            return
        while (point := self._next_point(size)) is not None:
            yield Leg(settings=point, role="grid", measure_s=LOOK_S)

    # The race -------------------------------------------------------------------------------------------------------

    def _race(self) -> Iterator[Leg | None]:
        """Look again at what may still win; stop when the choice stands.

        The contenders are each other's control: all of them run in every round. The baseline joins them where it is
        one; where nothing but it contests the choice, the duel that follows tells those two apart better.
        """
        chosen: Settings | None = None
        for number in range(1, ROUNDS_MAX):
            before, (chosen, contenders) = chosen, self._contenders()
            if not contenders or (number > 1 and chosen == before):
                self._ledger.note(
                    f"The race ended after {number} {'look' if number == 1 else 'looks'}: "
                    + ("nothing else may still win." if not contenders else "the choice stood.")
                )
                return
            while len(contenders) * (self._ledger.overhead_s() + LOOK_S) > self._seconds_left:
                self._short = f"Another look at {len(contenders)} settings did not fit into {self._seconds_left:.0f} s."
                yield None
            self._random.shuffle(contenders)
            for each in contenders:
                role: Role = "baseline" if each == self._baseline else "grid"
                yield Leg(settings=each, role=role, round=number, measure_s=LOOK_S)

    def _contenders(self) -> tuple[Settings | None, list[Settings]]:
        """Return the choice as it stands, and what to look at again; nothing where the baseline stands alone."""
        screening = Screening(self._ledger.results)
        own = [each for each in screening.rates if each.batch_size == self._baseline.batch_size]
        if not own:
            return None, []
        best = screening.best(own, self._baseline)
        chosen = min(screening.tied(own, best), key=screening.cost_order)
        cheaper = [each for each in own if screening.cost_order(each) < screening.cost_order(chosen)]
        near = [each for each in cheaper if screening.compare(each, best)[0] >= self._near_ratio(best)]
        disturbed = [each.settings for each in self._ledger.results if self._ledger.is_disturbed(each)]
        race = list(dict.fromkeys([chosen, best, *near, *(each for each in disturbed if each in own)]))[:CONTENDERS_MAX]
        # Separated: it is the best, and nothing cheaper is near but what its duel is with.
        return chosen, race if set(race) - {chosen, self._baseline} else []

    def _near_ratio(self, best: Settings) -> float:
        is_busy = self._is_saturated(best.num_workers, best.batch_size)
        return NEAR_BUSY_RATIO if is_busy else NEAR_RATIO
