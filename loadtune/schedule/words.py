"""How is a schedule said in one line, and which constants does it have per optimizer step?

Pure text and numbers. The curve itself does not depend on the batch size; what a scheduler that counts steps would
have to be given does, and that is what `compute_step_constants` says.
"""

import math

from loadtune.schedule.curve import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    MultiStepDecay,
    Piecewise,
    Plateau,
    Polynomial,
    Product,
    Schedule,
    Sequential,
    StepDecay,
    Unit,
)

StepConstant = tuple[str, tuple[float, ...]]
"""A constant's name, torch's own where torch has one, and its value; several values for milestones."""


def describe(schedule: Schedule) -> str:
    """Return a schedule in one line that names its units; t counts them."""
    match schedule:
        case Constant():
            return "constant" if schedule.ratio == 1 else f"constant, {_number(schedule.ratio)} of the base rate"
        case StepDecay():
            return f"times {_number(schedule.gamma)} every {_span(schedule.every, schedule.unit)}"
        case MultiStepDecay():
            return f"times {_number(schedule.gamma)} after {join_numbers(schedule.milestones)} {_units(schedule.unit)}"
        case Exponential():
            gamma = _number(math.exp(-schedule.k))
            return f"exp(-k t), k = {_number(schedule.k)} {_per(schedule.unit)} (gamma = {gamma})"
        case InverseTime():
            return f"1 / (1 + k t), k = {_number(schedule.k)} {_per(schedule.unit)}"
        case Polynomial():
            return f"(1 - t/T)^{_number(schedule.power)}, T = {_span(schedule.total, schedule.unit)}"
        case Cosine():
            again = ", then up again" if schedule.is_periodic else ""
            floor = f"{_number(schedule.floor)} of the base rate" if schedule.floor else "0"
            return f"half a cosine down to {floor} over {_span(schedule.total, schedule.unit)}{again}"
        case _:
            return _describe_composed(schedule)


def _describe_composed(schedule: Piecewise | Sequential | Product | Plateau) -> str:
    match schedule:
        case Piecewise():
            points = [f"{_number(ratio)} at {_number(units)}" for units, ratio in schedule.points]
            line = "linear" if schedule.shape == "linear" else "half cosines"
            return f"{line} through {', '.join(points)} {_units(schedule.unit)}"
        case Sequential():
            later = zip(schedule.milestones, schedule.curves[1:], strict=True)
            said = [f"from {_span(start, schedule.unit)} on {describe(curve)}" for start, curve in later]
            return "; ".join([describe(schedule.curves[0]), *said])
        case Product():
            return "; multiplied by: ".join(describe(curve) for curve in schedule.curves)
        case Plateau():
            return _describe_plateau(schedule)


def _describe_plateau(plateau: Plateau) -> str:
    is_relative = plateau.threshold_mode == "rel"
    least = f"{_number(100 * plateau.threshold)} %" if is_relative else _number(plateau.threshold)
    change = "fallen" if plateau.mode == "min" else "risen"
    every = "" if plateau.interval_samples is None else f", one every {plateau.interval_samples:,} samples"
    said = (
        f"times {_number(plateau.factor)} when the metric has not {change} by {least} "
        f"in more than {plateau.patience} evaluations{every}"
    )
    return said if plateau.curve == Constant() else f"{said}; multiplied by: {describe(plateau.curve)}"


def compute_step_constants(schedule: Schedule, batch_size: int) -> tuple[StepConstant, ...]:
    """Return the constants that a scheduler stepped after every optimizer step needs at a batch size.

    With kappa times the batch a step is kappa times as many samples: k' = kappa k, gamma' = gamma^kappa, and what is
    counted in steps is divided by kappa. An epoch has whole steps, the last of which may be short. Numbers of steps
    are not rounded, as torch's classes need them. Constants of a schedule stepped once an epoch stay as they are.

    Args:
        schedule: The schedule.
        batch_size: Samples behind one optimizer step.
    """
    match schedule:
        case StepDecay():
            steps = _steps_per_unit(schedule.unit, batch_size)
            return (("step_size", (schedule.every * steps,)), ("gamma", (schedule.gamma,)))
        case MultiStepDecay():
            steps = _steps_per_unit(schedule.unit, batch_size)
            return (
                ("milestones", tuple(each * steps for each in schedule.milestones)),
                ("gamma", (schedule.gamma,)),
            )
        case Exponential():
            k = schedule.k / _steps_per_unit(schedule.unit, batch_size)
            return (("k", (k,)), ("gamma", (math.exp(-k),)))
        case InverseTime():
            return (("k", (schedule.k / _steps_per_unit(schedule.unit, batch_size),)),)
        case Polynomial():
            total = schedule.total * _steps_per_unit(schedule.unit, batch_size)
            return (("total_iters", (total,)), ("power", (schedule.power,)))
        case Cosine():
            return (("T_max", (schedule.total * _steps_per_unit(schedule.unit, batch_size),)),)
        case _:
            return _compute_composed_constants(schedule, batch_size)


def _compute_composed_constants(
    schedule: Constant | Piecewise | Sequential | Product | Plateau, batch_size: int
) -> tuple[StepConstant, ...]:
    match schedule:
        case Constant():
            return ()
        case Piecewise():
            steps = _steps_per_unit(schedule.unit, batch_size)
            return (("points at", tuple(units * steps for units, _ in schedule.points)),)
        case Sequential():
            steps = _steps_per_unit(schedule.unit, batch_size)
            inner = [each for curve in schedule.curves for each in compute_step_constants(curve, batch_size)]
            return (*inner, ("milestones", tuple(each * steps for each in schedule.milestones)))
        case Product():
            return tuple(each for curve in schedule.curves for each in compute_step_constants(curve, batch_size))
        case Plateau():
            interval = schedule.interval_samples
            between = () if interval is None else (("steps between evaluations", (interval / batch_size,)),)
            patience = ("patience", (float(schedule.patience),))
            return (patience, *between, *compute_step_constants(schedule.curve, batch_size))


def join_numbers(values: tuple[float, ...]) -> str:
    """Return numbers as `30, 60 and 80`."""
    texts = [_number(value) for value in values]
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def _steps_per_unit(unit: Unit, batch_size: int) -> float:
    """Return the steps in one unit: optimizer steps, or 1 where the scheduler is stepped once a unit."""
    if unit.is_stepped:
        return 1.0
    steps = unit.samples / batch_size
    return float(math.ceil(steps)) if unit.name == "epoch" else steps


def _number(value: float) -> str:
    return f"{value:.6g}"


def _units(unit: Unit) -> str:
    stepped = f", stepped once an {unit.name}" if unit.is_stepped else ""
    return f"{unit.name}s of {unit.samples:,} samples{stepped}"


def _span(count: float, unit: Unit) -> str:
    """Return so many units in words: `50 epochs of 1,464 samples`."""
    text = f"{_number(count)} {_units(unit)}"
    return text.replace(f"{unit.name}s of", f"{unit.name} of", 1) if count == 1 else text


def _per(unit: Unit) -> str:
    stepped = f", stepped once an {unit.name}" if unit.is_stepped else ""
    return f"per {unit.name} of {unit.samples:,} samples{stepped}"
