"""What does a schedule give at one batch size, and what at another?

Pure: it follows a curve over a whole training without running one, at the same samples seen for both batch sizes.
"""

import math
import re
from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, structs

from loadtune.errors import UsageError
from loadtune.records.record import Record
from loadtune.records.settings import Optimizer
from loadtune.schedule.curve import (
    Curve,
    MultiStepDecay,
    Piecewise,
    Plateau,
    Product,
    Schedule,
    Sequential,
    StepDecay,
    epochs,
    with_warm_up,
)
from loadtune.schedule.rescale import rescale_learning_rate
from loadtune.schedule.words import compute_step_constants, describe

TABLE_PARTS = 10
"""Parts of the training between rows of the table; more would not fit on a screen together with the chart."""
CORNERS_MAX = 12
"""More milestones than these get no rows of their own, for the same reason."""


class StepConstants(Record, frozen=True, kw_only=True):
    """A constant of the schedule per optimizer step, by torch's name where torch has one."""

    name: str
    values: tuple[float, ...]


class Side(Record, frozen=True, kw_only=True):
    """The training with one batch size."""

    batch_size: Annotated[int, Meta(ge=1, description="Samples behind one optimizer step.")]
    learning_rate: Annotated[float, Meta(gt=0, description="The base rate, which the schedule is relative to.")]
    steps_per_epoch: Annotated[int, Meta(description="Optimizer steps in an epoch; the last may be short.")]
    schedule: Schedule
    text: Annotated[str, Meta(description="The schedule in words.")]
    constants: Annotated[
        tuple[StepConstants, ...], Meta(description="Not rounded; torch's classes need whole numbers of steps.")
    ]
    code: Annotated[tuple[str, ...], Meta(description="Lines of Python that make the scheduler.")]


class Point(Record, frozen=True, kw_only=True):
    """The rates after so many samples, one for each side."""

    epoch: float
    samples: int
    steps: Annotated[tuple[float, ...], Meta(description="Optimizer steps until then.")]
    learning_rates: tuple[float, ...]


class SchedulePlan(Record, frozen=True, kw_only=True):
    """A schedule before and, where another batch size is asked for, after the change."""

    epochs: float
    samples_per_epoch: int
    sides: Annotated[tuple[Side, ...], Meta(description="Now, and with the other batch size.")]
    points: Annotated[tuple[Point, ...], Meta(description="Empty for a plateau: only the metric could tell.")]
    factor: Annotated[float | None, Meta(description="The new rate by the old, f(kappa).")] = None
    rule: Annotated[str | None, Meta(description="Where the factor comes from.")] = None
    warnings: tuple[str, ...] = ()


def compute_plan(
    schedule: Schedule,
    *,
    rate: float,
    epoch_count: float,
    samples_per_epoch: int,
    batch_size: int,
    new_batch_size: int | None = None,
    optimizer: Optimizer = "sgd",
    added_warm_up: float | None = None,
) -> SchedulePlan:
    """Follow a schedule over a training, and its rescaling to another batch size.

    Args:
        schedule: The schedule.
        rate: The base rate at `batch_size`.
        epoch_count: Length of the training in epochs.
        samples_per_epoch: Samples in an epoch.
        batch_size: Samples behind one optimizer step.
        new_batch_size: The other batch size; None: nothing is rescaled.
        optimizer: Whose rule gives the factor.
        added_warm_up: Epochs over which the new batch size alone rises from the old rate to the new one (Goyal et al.
            2017, 2.2).

    Raises:
        UsageError: A number is not positive, or a warm-up is to be added where the rate does not grow.
    """
    if not 0 < rate < math.inf or (new_batch_size is not None and new_batch_size < 1):
        raise UsageError("a rate or batch size is not positive", "give positive numbers")
    now = _make_side(schedule, rate, batch_size, samples_per_epoch)
    if new_batch_size is None:
        if added_warm_up is not None:
            raise UsageError("no other batch size, so nothing to warm up for", "give --to-batch-size, or --warm-up")
        points = _compute_points((now,), epoch_count, samples_per_epoch)
        return SchedulePlan(epochs=epoch_count, samples_per_epoch=samples_per_epoch, sides=(now,), points=points)
    rescaled = rescale_learning_rate(optimizer, batch_size, new_batch_size, rate)
    changed, is_warmed_up = schedule, has_warm_up(schedule)
    if added_warm_up is not None:
        changed, is_warmed_up = add_warm_up(schedule, added_warm_up, rescaled.factor, samples_per_epoch), True
    new = _make_side(changed, rate * rescaled.factor, new_batch_size, samples_per_epoch)
    warnings = [each for each in rescaled.warnings if not (is_warmed_up and "warm up" in each)]
    if new_batch_size > samples_per_epoch:
        warnings.append(f"One step of {new_batch_size} samples is more than an epoch of {samples_per_epoch}.")
    return SchedulePlan(
        epochs=epoch_count,
        samples_per_epoch=samples_per_epoch,
        sides=(now, new),
        points=_compute_points((now, new), epoch_count, samples_per_epoch),
        factor=rescaled.factor,
        rule=rescaled.rule,
        warnings=tuple(warnings),
    )


def add_warm_up(schedule: Schedule, length: float, factor: float, samples_per_epoch: int) -> Schedule:
    """Return the schedule with a linear warm-up that begins at the old rate.

    Args:
        schedule: The schedule.
        length: Epochs until the whole new rate is reached.
        factor: The new base rate by the old.
        samples_per_epoch: Samples of an epoch.

    Raises:
        UsageError: The rate does not grow, or the length is not positive.
    """
    if factor <= 1:
        raise UsageError("the rate does not grow, so there is nothing to warm up", "leave out --add-warm-up")
    if not 0 < length < math.inf:
        raise UsageError(f"a warm-up of {length:g} epochs is none", "give a positive number of epochs")
    unit = epochs(samples_per_epoch)
    if isinstance(schedule, Plateau):
        warmed = with_warm_up(schedule.curve, length=length, unit=unit, start=1 / factor)
        return structs.replace(schedule, curve=warmed)
    return with_warm_up(schedule, length=length, unit=unit, start=1 / factor)


def has_warm_up(schedule: Schedule) -> bool:
    """Tell whether the rate begins below what it reaches, as `with_warm_up` makes it."""
    curve = schedule.curve if isinstance(schedule, Plateau) else schedule
    parts = curve.curves if isinstance(curve, Product | Sequential) else (curve,)
    return any(isinstance(part, Piecewise) and part.points[0][1] < part.points[1][1] for part in parts)


def _make_side(schedule: Schedule, rate: float, batch_size: int, samples_per_epoch: int) -> Side:
    constants = compute_step_constants(schedule, batch_size)
    return Side(
        batch_size=batch_size,
        learning_rate=rate,
        steps_per_epoch=math.ceil(samples_per_epoch / batch_size),
        schedule=schedule,
        text=describe(schedule),
        constants=tuple(StepConstants(name=name, values=values) for name, values in constants),
        code=compose_code(
            schedule,
            (f"# optimizer: yours, with lr={rate:.6g}",),
            batch_size=batch_size,
            samples_per_epoch=samples_per_epoch,
        ),
    )


def compose_code(
    schedule: Schedule | tuple[Curve, ...] | None,
    optimizer: Iterable[str],
    *,
    batch_size: int,
    samples_per_epoch: int | None,
    accumulation_steps: int = 1,
    world_size: int = 1,
    imports: tuple[str, ...] = (),
    remarks: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Return Python to paste that makes a scheduler; a record's repr is the call that makes it.

    Args:
        schedule: One for all parameter groups, or a curve for each; None: the optimizer alone is set.
        optimizer: Lines that make or change the optimizer, before the scheduler is made for it.
        batch_size: Samples of one batch of one rank.
        samples_per_epoch: Over all ranks; None: not known.
        accumulation_steps: Batches to an optimizer step.
        world_size: Ranks that train together.
        imports: What else the lines need of loadtune.
        remarks: Comments on the schedule.
    """
    names = sorted({*imports, *(() if schedule is None else ("anneal",))})
    head = [f"from loadtune import {', '.join(names)}"] if names else []
    if schedule is None:
        return (*head, *optimizer, *remarks)
    made = repr(list(schedule)) if isinstance(schedule, tuple) else repr(schedule)
    curves = ", ".join(sorted(set(re.findall(r"\b([A-Z]\w+)\(", made))))
    counts = {
        "batch_size": batch_size,
        "accumulation_steps": None if accumulation_steps == 1 else accumulation_steps,
        "world_size": None if world_size == 1 else world_size,
        "samples_per_epoch": samples_per_epoch,
    }
    counting = ", ".join(f"{name}={value}" for name, value in counts.items() if value is not None)
    return (
        *head,
        f"from loadtune.schedule.curve import {curves}",
        *remarks,
        f"schedule = {made}",
        *optimizer,
        f"scheduler = anneal(optimizer, schedule, {counting})",
        "# after each optimizer.step(): scheduler.step()",
        *(["# after each evaluation: scheduler.step(metric)"] if isinstance(schedule, Plateau) else []),
    )


def _compute_points(sides: tuple[Side, ...], epoch_count: float, samples_per_epoch: int) -> tuple[Point, ...]:
    """Return the rates at even parts of the training, and where a curve has a corner."""
    curves = [side.schedule for side in sides if not isinstance(side.schedule, Plateau)]
    if len(curves) < len(sides):
        return ()
    total = round(epoch_count * samples_per_epoch)
    part = total / TABLE_PARTS
    if epoch_count >= TABLE_PARTS:  # whole epochs are what people look for
        part = math.ceil(epoch_count / TABLE_PARTS) * samples_per_epoch
    places = {0, total} | {round(part * index) for index in range(TABLE_PARTS)}
    corners = {round(corner) for curve in curves for corner in find_corners(curve, total)}
    if len(corners) <= CORNERS_MAX:
        places |= corners
    return tuple(
        Point(
            epoch=samples / samples_per_epoch,
            samples=samples,
            steps=tuple(_count_steps(samples, side, samples_per_epoch) for side in sides),
            learning_rates=tuple(
                side.learning_rate * curve.ratio_at(samples) for side, curve in zip(sides, curves, strict=True)
            ),
        )
        for samples in sorted(place for place in places if place <= total)
    )


def _count_steps(samples: int, side: Side, samples_per_epoch: int) -> float:
    """Return the optimizer steps until then; those begun and not ended count in part."""
    done, rest = divmod(samples, samples_per_epoch)
    return done * side.steps_per_epoch + rest / side.batch_size


def find_corners(curve: Curve, total: float) -> tuple[float, ...]:
    """Return after how many samples a curve jumps or turns, up to a total."""
    match curve:
        case StepDecay():
            every = curve.every * curve.unit.samples
            count = math.floor(total / every)
            found: Iterable[float] = (every * index for index in range(1, count + 1 if count <= CORNERS_MAX else 1))
        case MultiStepDecay():
            found = (each * curve.unit.samples for each in curve.milestones)
        case Piecewise():
            found = (units * curve.unit.samples for units, _ in curve.points)
        case Product():
            found = (each for part in curve.curves for each in find_corners(part, total))
        case Sequential():
            starts = [0.0, *(each * curve.unit.samples for each in curve.milestones)]
            inner = zip(starts, curve.curves, strict=True)
            found = [*starts, *(start + each for start, part in inner for each in find_corners(part, total - start))]
        case _:
            found = ()
    return tuple(sorted({each for each in found if 0 < each <= total}))
