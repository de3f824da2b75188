"""Which schedules can be named in one word and a few numbers?

Reading refuses what cannot be meant: a number that the kind does not use, or a k without the unit that it is per.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from msgspec import structs

from loadtune.errors import UsageError
from loadtune.schedule.curve import (
    WARM_UP_START,
    Constant,
    Cosine,
    Curve,
    Exponential,
    InverseTime,
    MultiStepDecay,
    Piecewise,
    Plateau,
    Polynomial,
    Schedule,
    StepDecay,
    Unit,
    epochs,
    iterations,
    with_warm_up,
)

EPOCHS_MAX = 1e6
"""More is a slip of the keyboard."""
POLY_POWER = 0.9
"""DeepLab's (Chen et al. 2017, 4.1)."""
DECAY_GAMMA = 0.1
"""torch's own default for StepLR, MultiStepLR and ReduceLROnPlateau."""
PLATEAU_PATIENCE = 10
"""torch's own default for ReduceLROnPlateau."""
ONE_CYCLE_RISE, ONE_CYCLE_DIVISOR, ONE_CYCLE_FINAL_DIVISOR = 0.3, 25.0, 1e4
"""torch's own defaults for OneCycleLR: share of the training that rises, and how far below the peak it begins and,
from there, ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleWords:
    """What was said about a schedule. None: not said."""

    kind: str
    epochs: float
    samples_per_epoch: int
    batch_size: int
    per: str | None = None
    power: float | None = None
    gamma: float | None = None
    every: float | None = None
    milestones: tuple[float, ...] | None = None
    k: float | None = None
    floor: float | None = None
    patience: int | None = None
    warm_up: float | None = None
    warm_up_start: float | None = None


def make_schedule(words: ScheduleWords) -> Schedule:
    """Return the schedule that was named.

    Raises:
        UsageError: The kind is unknown, a number is missing, impossible, or not used by the kind.
    """
    if words.kind not in KINDS:
        raise UsageError(f"no schedule is called {words.kind!r}", f"name one of: {', '.join(KINDS)}")
    if not 0 < words.epochs <= EPOCHS_MAX or words.samples_per_epoch < 1 or words.batch_size < 1:
        raise UsageError(
            f"no training: {words.epochs:g} epochs of {words.samples_per_epoch} samples, batches of {words.batch_size}",
            f"give positive --epochs (at most {EPOCHS_MAX:g}), --samples and --batch-size",
        )
    takes, make = KINDS[words.kind]
    for name in (each for each in SHAPE_WORDS if getattr(words, each) is not None and each not in takes):
        options = ", ".join(f"--{each}" for each in takes) or "no such option"
        raise UsageError(f"--{name} says nothing about {words.kind}", f"{words.kind} takes {options}")
    if words.per not in {None, "iteration", "epoch"}:
        raise UsageError(f"--per {words.per} is no unit", "give --per iteration or --per epoch")
    try:
        return _warm_up(words, make(words))
    except ValueError as error:
        raise UsageError(f"not a schedule: {error}", "see loadtune schedule --help") from error


def _warm_up(words: ScheduleWords, schedule: Schedule) -> Schedule:
    if words.warm_up is None:
        if words.warm_up_start is not None:
            raise UsageError("--warm-up-start without a warm-up", "give --warm-up, in epochs")
        return schedule
    start = WARM_UP_START if words.warm_up_start is None else words.warm_up_start
    unit = epochs(words.samples_per_epoch)
    if isinstance(schedule, Plateau):
        warmed = with_warm_up(schedule.curve, length=words.warm_up, unit=unit, start=start)
        return structs.replace(schedule, curve=warmed)
    return with_warm_up(schedule, length=words.warm_up, unit=unit, start=start)


def _epochs(words: ScheduleWords) -> Unit:
    """Return epochs; with --per epoch the rate changes only at their ends."""
    return epochs(words.samples_per_epoch, is_stepped=words.per == "epoch")


def _k_unit(words: ScheduleWords) -> Unit:
    """Return what k is per, which nothing but the user can know: 0.1 per epoch and per iteration are worlds apart."""
    if words.per is None:
        raise UsageError("k and gamma decay the rate once per what?", "give --per iteration or --per epoch")
    return iterations(words.batch_size) if words.per == "iteration" else _epochs(words)


def _make_constant(_words: ScheduleWords) -> Curve:
    return Constant()


def _make_step(words: ScheduleWords) -> Curve:
    if words.every is None:
        raise UsageError("the rate decays every how many epochs?", "give --every, such as --every 20")
    gamma = DECAY_GAMMA if words.gamma is None else words.gamma
    return StepDecay(every=words.every, gamma=gamma, unit=_epochs(words))


def _make_multi_step(words: ScheduleWords) -> Curve:
    if words.milestones is None:
        raise UsageError("the rate decays after which epochs?", "give --milestones, such as --milestones 30,60,80")
    gamma = DECAY_GAMMA if words.gamma is None else words.gamma
    return MultiStepDecay(milestones=words.milestones, gamma=gamma, unit=_epochs(words))


def _make_exponential(words: ScheduleWords) -> Curve:
    if (words.k is None) == (words.gamma is None):
        raise UsageError("how fast does the rate decay?", "give one of --k and --gamma; gamma is exp(-k)")
    unit = _k_unit(words)
    if words.gamma is not None and not 0 < words.gamma <= 1:
        raise UsageError(f"--gamma {words.gamma:g} is no decay", "give a gamma above 0 and at most 1")
    return Exponential(k=cast(float, words.k) if words.gamma is None else -math.log(words.gamma), unit=unit)


def _make_inverse(words: ScheduleWords) -> Curve:
    if words.k is None:
        raise UsageError("how fast does the rate decay?", "give --k")
    return InverseTime(k=words.k, unit=_k_unit(words))


def _make_poly(words: ScheduleWords) -> Curve:
    power = POLY_POWER if words.power is None else words.power
    return Polynomial(total=words.epochs, power=power, unit=_epochs(words))


def _make_cosine(words: ScheduleWords) -> Curve:
    return Cosine(total=words.epochs, floor=words.floor or 0.0, unit=_epochs(words))


def _make_one_cycle(words: ScheduleWords) -> Curve:
    """Make torch's OneCycleLR with its defaults; the rate given is the peak, max_lr."""
    start = 1 / ONE_CYCLE_DIVISOR
    peak, end = (ONE_CYCLE_RISE * words.epochs, 1.0), (words.epochs, start / ONE_CYCLE_FINAL_DIVISOR)
    return Piecewise(points=((0.0, start), peak, end), shape="cosine", unit=_epochs(words))


def _make_plateau(words: ScheduleWords) -> Plateau:
    return Plateau(
        factor=DECAY_GAMMA if words.gamma is None else words.gamma,
        patience=PLATEAU_PATIENCE if words.patience is None else words.patience,
    )


SHAPE_WORDS = ("per", "power", "gamma", "every", "milestones", "k", "floor", "patience")

KINDS: dict[str, tuple[tuple[str, ...], Callable[[ScheduleWords], Schedule]]] = {
    "constant": ((), _make_constant),
    "step": (("every", "gamma"), _make_step),
    "multistep": (("milestones", "gamma"), _make_multi_step),
    "exponential": (("k", "gamma", "per"), _make_exponential),
    "inverse": (("k", "per"), _make_inverse),
    "poly": (("power", "per"), _make_poly),
    "cosine": (("floor", "per"), _make_cosine),
    "one-cycle": (("per",), _make_one_cycle),
    "plateau": (("gamma", "patience"), _make_plateau),
}
"""What each kind takes, and what makes it."""
