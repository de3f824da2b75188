"""How do others choose num_workers, and the batch size? Each as a function of what measuring tells it. Pure.

The doubling loop measures; the rules of thumb do not. TPE, random order and the full grid read the rates that the
oracle's first round found, one look at each setting, and are charged what those looks took.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.tuning_settings import Point

Look = tuple[float, float]
"""Samples a second, 0 where it failed; seconds that it took."""
Measure = Callable[[Point], Look]

GAIN = 0.03
"""What a doubling must win to go on, and how near to the best the fewest workers must be."""
ENOUGH = 0.97
"""Share of the device's own rate at which there is nothing left to win."""
DOUBLINGS = (0, 2, 4, 8, 16, 32)
TRIALS_SHARE = 0.7
"""Of the settings, how many TPE and random order may measure. With all of them, both are the full grid."""


@dataclass(slots=True)
class Answer:
    """What somebody chose, and what stood when."""

    point: Point
    seconds: float = 0.0
    """Until the answer."""
    course: list[tuple[float, Point]] = field(default_factory=list)
    """(seconds, what was the best so far)."""

    def at(self, seconds: float) -> Point | None:
        """Return what stood after so many seconds; None: nothing yet."""
        stood = [point for when, point in self.course if when <= seconds]
        return stood[-1] if stood else None


def doubling(
    measure: Measure, device_rate: Callable[[int], float], batches: Sequence[int], start_s: float = 0.0
) -> Answer:
    """Double the workers, then the batch, until it stops helping; then take the fewest within 3 per cent of the best.

    Args:
        measure: Measures a setting.
        device_rate: Samples a second of the device alone at a batch size. The loop is told, and pays nothing for it.
        batches: To choose from, the user's own first.
        start_s: Seconds until it can measure: importing torch.
    """
    rates: dict[Point, float] = {}
    answer = Answer((0, batches[0]), start_s)

    def look(point: Point) -> float:
        rates[point], seconds = measure(point)
        answer.seconds += seconds
        answer.course.append((answer.seconds, max(rates, key=lambda each: rates[each])))
        return rates[point]

    before = 0.0
    for workers in DOUBLINGS:
        rate = look((workers, batches[0]))
        if rate >= ENOUGH * device_rate(batches[0]) or (workers and rate < (1 + GAIN) * before):
            break
        before = max(before, rate)
    chosen = _fewest(rates)[0]
    before = max(rates.values())
    for batch in batches[1:]:
        rate = look((chosen, batch))
        if rate < (1 + GAIN) * before:
            break
        before = rate
    answer.point = _fewest(rates)
    answer.course.append((answer.seconds, answer.point))
    return answer


def _fewest(rates: Mapping[Point, float]) -> Point:
    best = max(rates.values())
    return min(point for point, rate in rates.items() if rate >= (1 - GAIN) * best)


def rules(cores: int, batches: Sequence[int], device_rate: Callable[[int], float]) -> dict[str, Answer]:
    """Return the answers that nobody measures for: they stand from the first second.

    Lightning's batch size finder doubles until memory runs out, so its answer is the largest batch that fits.
    """
    own = batches[0]
    largest = max(batch for batch in batches if device_rate(batch) > 0)
    fixed = {
        "16 always": (16, own),
        "32 always": (32, own),
        "num_workers = cores": (cores, own),
        "cores - 1, largest batch": (max(1, cores - 1), largest),
    }
    return {name: Answer(point, 0.0, [(0.0, point)]) for name, point in fixed.items()}


def full_grid(looks: Mapping[Point, Look], start_s: float = 0.0) -> Answer:
    """Measure every setting in rising order and take the fastest, as DPT does (arXiv 2210.05244)."""
    return _read(list(looks), looks, start_s)


def tpe(looks: Mapping[Point, Look], seed: int, start_s: float = 0.0) -> Answer:
    """Let Optuna's TPE choose the settings to measure; one that it asks for again costs nothing.

    Raises:
        ImportError: Optuna is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    workers, batches = (sorted({point[axis] for point in looks}) for axis in (0, 1))
    order: list[Point] = []
    while len(set(order)) < trial_count(looks) and len(order) < 3 * len(looks):
        trial = study.ask()
        place = trial.suggest_int("num_workers", 0, len(workers) - 1)
        other = trial.suggest_int("batch_size", 0, len(batches) - 1) if len(batches) > 1 else 0
        order.append((workers[place], batches[other]))
        study.tell(trial, looks[order[-1]][0])
    return _read(list(dict.fromkeys(order)), looks, start_s)


def at_random(looks: Mapping[Point, Look], seed: int, start_s: float = 0.0) -> Answer:
    """Measure settings in random order, as many as TPE does: what a search must beat to have searched."""
    return _read(random.Random(seed).sample(sorted(looks), trial_count(looks)), looks, start_s)


def trial_count(looks: Mapping[Point, Look]) -> int:
    """Return how many settings a search that reads the table may measure."""
    return math.ceil(TRIALS_SHARE * len(looks))


def _read(order: Sequence[Point], looks: Mapping[Point, Look], start_s: float) -> Answer:
    answer = Answer(order[0], start_s)
    for point in order:
        answer.seconds += looks[point][1]
        if looks[point][0] > looks[answer.point][0]:
            answer.point = point
        answer.course.append((answer.seconds, answer.point))
    return answer
