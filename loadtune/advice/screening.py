"""How do the measured settings compare, round by round, and what does each cost?

It ranks and compares what the screening saw. What to recommend is `selection`'s question.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import msgspec

from loadtune.advice.search import is_end_to_end
from loadtune.records.measurement import Cause, TrialResult, TrialState, Window
from loadtune.records.settings import Settings
from loadtune.stats import is_tied, paired_ratio_interval, pool_noise, rate_per_s

UNKNOWN_SPREAD_RATIO = 0.1
"""Spread assumed of a trial with one window: noisy, so that it ties with nothing by chance."""


CUT_SHORT = frozenset({Cause.DEADLINE, Cause.BUDGET, Cause.INTERRUPT})
"""Causes that say nothing about the setting: with more time it might have run. With one more here, a setting that
crashes is told to be kept."""


class Screening:
    """Completed end-to-end trials by setting and round; the order of the trials does not matter.

    A setting that failed in its last trial has none, where others run: it may be fast, and cannot be relied on.

    Attributes:
        trials: By setting, in the order of their numbers.
        rates: By setting, then round: samples a second.
        unreliable: What failed last, of settings that ran before.
    """

    def __init__(self, trials: Sequence[TrialResult]) -> None:
        self.trials: dict[Settings, list[TrialResult]] = {}
        self.unreliable: dict[Settings, TrialResult] = {}
        for trial in sorted(trials, key=lambda trial: trial.number):
            # Only a complete trial has a rate. Variants were measured for their duel, after the choice.
            if not is_end_to_end(trial) or trial.role == "variant":
                continue
            if trial.rate_per_s:
                self.trials.setdefault(trial.settings, []).append(trial)
                self.unreliable.pop(trial.settings, None)
            elif trial.settings in self.trials and has_failed(trial):
                self.unreliable[trial.settings] = trial
        # Of a batch size that nothing else runs with, what ran once is all there is.
        sizes = {each.batch_size for each in self.trials if each not in self.unreliable}
        self.unreliable = {each: trial for each, trial in self.unreliable.items() if each.batch_size in sizes}
        for settings in self.unreliable:
            del self.trials[settings]
        self.rates = {settings: _rates_by_round(own) for settings, own in self.trials.items()}
        self._noise = pool_noise(list(self.rates.values()))

    def rate_per_s(self, settings: Settings) -> float:
        """Return samples by seconds over all trials of a measured setting."""
        return rate_per_s([window for trial in self.trials[settings] for window in _windows(trial)])

    def memory_bytes(self, settings: Settings) -> int | None:
        """Return the most memory that a trial of this setting took."""
        known = [
            trial.trace.pss_bytes if trial.trace.pss_bytes is not None else trial.trace.peak_memory_bytes
            for trial in self.trials.get(settings, ())
            if trial.trace is not None
        ]
        return max((each for each in known if each is not None), default=None)

    def best(self, candidates: Sequence[Settings], control: Settings) -> Settings:
        """Return the fastest, each round measured by its control where every round has one."""
        rounds = {number for each in candidates for number in self.rates[each]}
        by_round = self.rates.get(control, {})
        level = by_round if rounds <= by_round.keys() else dict.fromkeys(rounds, 1.0)

        def score(settings: Settings) -> tuple[float, str]:
            logs = [math.log(rate / level[number]) for number, rate in self.rates[settings].items()]
            return round(fmean(logs), 12), _name(settings)

        return max(candidates, key=score)

    def compare(self, settings: Settings, other: Settings) -> tuple[float, float]:
        """Return the rate of one setting by another's and the lower end of that ratio, paired by round.

        One round has no interval. There the windows' spread stands in for it, not divided by their number:
        windows of one run see only part of what differs between runs.
        """
        common = sorted(self.rates[settings].keys() & self.rates[other].keys())
        if common:
            pairs = [[self.rates[each][number] for number in common] for each in (settings, other)]
            interval = paired_ratio_interval(pairs[0], pairs[1], self._noise)
            if interval.estimate is not None and interval.low is not None:
                return interval.estimate, interval.low
        sides = [fmean(self.rates[each].values()) for each in (settings, other)]
        ratio = sides[0] / sides[1]
        return ratio, ratio * (1 - math.hypot(self._spread_ratio(settings), self._spread_ratio(other)))

    def tied(self, candidates: Sequence[Settings], best: Settings) -> list[Settings]:
        """Return the best and whatever may replace it by the tie rule."""
        return [each for each in candidates if each == best or is_tied(*self.compare(each, best))]

    def cost_order(self, settings: Settings) -> tuple[int, float, str]:
        """Fewest workers first, then least memory (unknown last), then a fixed order."""
        memory = self.memory_bytes(settings)
        return settings.num_workers, math.inf if memory is None else memory, _name(settings)

    def _spread_ratio(self, settings: Settings) -> float:
        spreads = (trial.spread_ratio for trial in self.trials[settings])
        return max(UNKNOWN_SPREAD_RATIO if spread is None else spread for spread in spreads)


def has_failed(trial: TrialResult) -> bool:
    """Say whether a trial was begun and failed by itself."""
    return trial.failure is not None and trial.failure.cause not in CUT_SHORT and trial.state is not TrialState.SKIPPED


def _rates_by_round(trials: Sequence[TrialResult]) -> dict[int, float]:
    rates: dict[int, list[float]] = {}
    for trial in trials:
        if trial.rate_per_s is not None:
            rates.setdefault(trial.round, []).append(trial.rate_per_s)
    return {number: fmean(several) for number, several in rates.items()}


def _windows(trial: TrialResult) -> tuple[Window, ...]:
    return () if trial.measurement is None else trial.measurement.windows


def _name(settings: Settings) -> str:
    """A fixed order among equals."""
    return msgspec.json.encode(settings).decode()
