"""How do others choose num_workers? Each as a function of what measuring tells it, with what it cost. Pure.

The ten-line loop measures; the rules of thumb do not. TPE and the full grid read the rates that `tuning` measured for
every setting, and are charged what their trials took there.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Measure = Callable[[int], tuple[float, float]]
"""num_workers to (samples a second, seconds that it took); a rate of 0 where it failed."""

GAIN = 0.03
"""What a doubling must win to go on, and how near to the best the fewest workers must be."""
ENOUGH = 0.97
"""Share of the device's own rate at which there is nothing left to win."""
DOUBLINGS = (0, 2, 4, 8, 16, 32)
TPE_TRIALS = 8
"""Optuna's own example budgets are larger; with more it only costs more here, where 11 settings are the space."""


@dataclass(slots=True)
class Answer:
    """What somebody chose, and what stood when."""

    num_workers: int
    seconds: float = 0.0
    """Until the answer."""
    course: list[tuple[float, int]] = field(default_factory=list)
    """(seconds, num_workers that was the best so far)."""

    def at(self, seconds: float) -> int | None:
        """Return what stood after so many seconds; None: nothing yet."""
        stood = [workers for when, workers in self.course if when <= seconds]
        return stood[-1] if stood else None


def doubling(measure: Measure, device_rate: float) -> Answer:
    """Double the workers until it stops helping, then take the fewest within 3 per cent of the best."""
    rates: dict[int, float] = {}
    answer = Answer(0)
    before = 0.0
    for workers in DOUBLINGS:
        rate, seconds = measure(workers)
        answer.seconds += seconds
        rates[workers] = rate
        answer.course.append((answer.seconds, max(rates, key=lambda each: rates[each])))
        if rate >= ENOUGH * device_rate or (workers and rate < (1 + GAIN) * before):
            break
        before = max(before, rate)
    best = max(rates.values())
    answer.num_workers = min(workers for workers, rate in rates.items() if rate >= (1 - GAIN) * best)
    answer.course.append((answer.seconds, answer.num_workers))
    return answer


def rules(cores: int) -> dict[str, Answer]:
    """Return the answers that nobody measures for: they stand from the first second."""
    fixed = {
        "16 always": 16,
        "32 always": 32,
        "torch's suggestion, num_workers = cores": cores,
        "Lightning's rule, cores - 1": max(1, cores - 1),
    }
    return {name: Answer(workers, 0.0, [(0.0, workers)]) for name, workers in fixed.items()}


def full_grid(rates: Mapping[int, float], seconds: Mapping[int, float]) -> Answer:
    """Measure every setting in rising order and take the fastest, as DPT does (arXiv 2210.05244)."""
    return _read(sorted(rates), rates, seconds)


def tpe(rates: Mapping[int, float], seconds: Mapping[int, float], seed: int) -> Answer:
    """Let Optuna's TPE choose the settings to measure.

    Raises:
        ImportError: Optuna is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    counts = sorted(rates)
    order: list[int] = []
    for _ in range(TPE_TRIALS):
        trial = study.ask()
        workers = counts[trial.suggest_int("place", 0, len(counts) - 1)]
        order.append(workers)
        study.tell(trial, rates[workers])
    return _read(order, rates, seconds)


def at_random(rates: Mapping[int, float], seconds: Mapping[int, float], seed: int) -> Answer:
    """Measure settings in random order, as many as TPE does: what a search must beat to have searched."""
    order = random.Random(seed).sample(sorted(rates), min(TPE_TRIALS, len(rates)))
    return _read(order, rates, seconds)


def _read(order: list[int], rates: Mapping[int, float], seconds: Mapping[int, float]) -> Answer:
    answer = Answer(order[0])
    for stood, spent in _course(order, rates, seconds):
        answer.num_workers, answer.seconds = stood, spent
        answer.course.append((spent, stood))
    return answer


def _course(order: list[int], rates: Mapping[int, float], seconds: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    spent, best = 0.0, order[0]
    for workers in order:
        spent += seconds[workers]
        best = workers if rates[workers] > rates[best] else best
        yield best, spent
