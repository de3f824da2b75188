"""What is to be pasted where the batch changes: optimizer, warm-up and schedule, as code, and the curve to draw?

It starts from what is known of the training: the optimizer and the scheduler themselves, their names, or nothing. What
is not known is either left to the user's own object, which the code rescales where it is, or said to be assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from loadtune.records.report import LearningRate, ScheduleChange
from loadtune.records.settings import Optimizer
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.curve import Curve, Plateau, Polynomial, Schedule, epochs
from loadtune.schedule.epoch import change_epoch, count_epoch
from loadtune.schedule.kinds import POLY_POWER
from loadtune.schedule.optimizers import Held, read_optimizer
from loadtune.schedule.plan import CORNERS_MAX, add_warm_up, compose_code, find_corners, has_warm_up
from loadtune.schedule.rescale import rescale
from loadtune.schedule.rescaled import Rescaled
from loadtune.schedule.words import describe

CURVE_PARTS = 60
"""Parts of the curve to draw: enough for a smooth line, and three kilobytes of a report."""
ASSUMED_NOTE = "# no scheduler was handed over: DeepLab's polynomial stands for it; `loadtune schedule` makes others"
NO_SCHEDULE_NOTE = "# scheduler: the same as a function of samples seen; loadtune.anneal makes one"

Schedules = Schedule | tuple[Curve, ...]
"""One for all parameter groups, or a curve for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """How the training was tuned, as far as that is known."""

    optimizer: Optimizer
    """By whose rule the rate follows the batch."""
    handed: Held | str | None = None
    """What the optimizer that was handed over holds, or its class where no rule was checked for it: then its rate alone
    is rescaled. None: only the rule is known."""
    learning_rate: float | None = None
    schedule: Schedules | None = None
    batch_size: int
    """Samples of one micro-batch of one rank, where the rate was tuned."""
    accumulation_steps: int = 1
    world_size: int = 1
    """Ranks that train together, before and after."""
    sample_count: int | None = None
    """Of an epoch over all ranks, before any is dropped; None: not known."""
    drop_last: bool = False
    """Whether what fills no batch is left out of an epoch."""
    epochs: int = 30
    noise_scale: NoiseScaleEstimate | None = None

    def count_epoch(self, batch_size: int) -> int | None:
        """Return the samples that an epoch trains on with batches of so many; None where not known."""
        return count_epoch(self.sample_count, batch_size, world_size=self.world_size, drop_last=self.drop_last)


def add_code(told: LearningRate, tuned: Tuned, batch_size: int, accumulation_steps: int) -> LearningRate:
    """Return the learning rate with the code that sets it and its schedule; as it is where the batch is the same.

    A warm-up from the old rate, over five epochs or a tenth of the run, is in the schedule where the batch grows more
    than twice (Goyal et al. 2017, 2.2) and the schedule has none of its own; what warns of it is dropped then.

    Args:
        told: What another batch asks of the rate.
        tuned: What it starts from.
        batch_size: Samples of one micro-batch of one rank, now.
        accumulation_steps: Micro-batches behind one optimizer step, now.
    """
    if told.batch_size == told.base_batch_size:
        return told
    sample_count = tuned.count_epoch(batch_size)
    rescaled = rescale(
        _read_optimizer(tuned),
        tuned.batch_size,
        batch_size,
        base_accumulation_steps=tuned.accumulation_steps,
        accumulation_steps=accumulation_steps,
        base_world_size=tuned.world_size,
        world_size=tuned.world_size,
        sample_count=sample_count,
        epochs=tuned.epochs,
        noise_scale=tuned.noise_scale,
    )
    old = _read_schedule(tuned, sample_count)
    new = _warm_up(old, rescaled, sample_count)
    imports, optimizer = _compose_optimizer(told, tuned, rescaled, batch_size, accumulation_steps)
    remarks = (NO_SCHEDULE_NOTE,) if new is None else (ASSUMED_NOTE,) if tuned.schedule is None else ()
    code = compose_code(
        new,
        optimizer,
        imports=imports,
        remarks=remarks,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        world_size=tuned.world_size,
        samples_per_epoch=sample_count,
    )
    is_warmed = new is not None and has_warm_up(_first(new))
    # By the optimizer's own figures, where it was handed over: torch's defaults may be none of it.
    warnings = rescaled.warnings if isinstance(tuned.handed, Held) else told.warnings
    return structs.replace(
        told,
        code=code,
        schedule=None if old is None or new is None else _compare(old, new, told.factor, tuned, sample_count),
        warnings=tuple(each for each in warnings if not (is_warmed and "warm up" in each)),
    )


def _read_optimizer(tuned: Tuned) -> Held:
    """Return what the optimizer holds; torch's defaults stand for what is not known of one that was only named."""
    if isinstance(tuned.handed, Held):
        return tuned.handed
    return read_optimizer(tuned.optimizer, {"lr": tuned.learning_rate or 1.0})


def _read_schedule(tuned: Tuned, sample_count: int | None) -> Schedules | None:
    """Return the schedule in epochs of so many samples, or what stands for it where none was handed over.

    A scheduler that was stepped each epoch goes on to be: what its epoch held follows from the batch it was made with.
    """
    if tuned.schedule is not None:
        changed: Schedules = change_epoch(tuned.schedule, tuned.count_epoch(tuned.batch_size), sample_count)
        return changed
    if not sample_count:
        return None
    return Polynomial(total=float(tuned.epochs), power=POLY_POWER, unit=epochs(sample_count))


def _warm_up(schedule: Schedules | None, rescaled: Rescaled, sample_count: int | None) -> Schedules | None:
    """Return the schedule with a warm-up from the old rate, where one is needed, not there, and of known length."""
    needed = rescaled.warm_up
    if schedule is None or needed is None or needed.samples is None or not sample_count:
        return schedule
    length = needed.samples / sample_count
    if not isinstance(schedule, tuple):
        return schedule if has_warm_up(schedule) else add_warm_up(schedule, length, rescaled.factor, sample_count)
    if any(map(has_warm_up, schedule)):
        return schedule
    warmed = [add_warm_up(each, length, rescaled.factor, sample_count) for each in schedule]
    return tuple(each for each in warmed if not isinstance(each, Plateau))


def _compose_optimizer(
    told: LearningRate, tuned: Tuned, rescaled: Rescaled, batch_size: int, accumulation_steps: int
) -> tuple[tuple[str, ...], Sequence[str]]:
    """Return what must be imported from loadtune, and the lines that set the optimizer's hyperparameters."""
    if isinstance(tuned.handed, Held):
        note = f"# optimizer: the {tuned.handed.own_name} that was handed over, before it gets a scheduler"
        return (), (note, *rescaled.setting_code)
    if tuned.handed is not None:
        note = f"# optimizer: yours; no rule was checked for {tuned.handed}, so the rate alone is rescaled"
        return (), (note, "for group in optimizer.param_groups:", f'    group["lr"] *= {told.factor:.6g}')
    rate = "" if tuned.learning_rate is None else f", lr={tuned.learning_rate:g}"
    result = "" if told.rate is None else f"  # lr={told.rate:.6g}"
    batches = [str(tuned.batch_size), str(batch_size)]
    steps = [
        ("base_accumulation_steps", tuned.accumulation_steps),
        ("accumulation_steps", accumulation_steps),
        ("base_world_size", tuned.world_size),
        ("world_size", tuned.world_size),
    ]
    batches += [f"{name}={value}" for name, value in steps if value != 1]
    noise = tuned.noise_scale
    if noise is not None and not noise.is_at_least and tuned.optimizer == "sgd":
        batches.append(f"noise_scale={noise.samples:.6g}")
    return ("rescale",), (
        f"# optimizer: yours as it is for a batch of {tuned.batch_size}{rate}, before it gets a scheduler",
        f"rescale(optimizer, {', '.join(batches)}).apply(optimizer){result}",
    )


def _compare(old: Schedules, new: Schedules, factor: float, tuned: Tuned, sample_count: int | None) -> ScheduleChange:
    """Return the first group's schedule, before and after, in words and points."""
    before, after = _first(old), _first(new)
    points: tuple[tuple[int, float, float], ...] = ()
    if sample_count and not isinstance(before, Plateau) and not isinstance(after, Plateau):
        total = tuned.epochs * sample_count
        corners = {round(each) for curve in (before, after) for each in find_corners(curve, total)}
        places = {round(total * place / CURVE_PARTS) for place in range(CURVE_PARTS + 1)}
        if len(corners) <= CORNERS_MAX:  # and one sample before, so that a jump is drawn as one
            places |= corners | {each - 1 for each in corners}
        points = tuple((at, before.ratio_at(at), factor * after.ratio_at(at)) for at in sorted(places))
    return ScheduleChange(described=describe(after), is_assumed=tuned.schedule is None, points=points)


def _first(schedule: Schedules) -> Schedule:
    return schedule[0] if isinstance(schedule, tuple) else schedule
