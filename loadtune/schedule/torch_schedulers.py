"""Which schedule does one of torch's own schedulers follow?

Its constants are read, as torch 2.14 keeps them, and become a curve in samples; the `Unit` says how often it was
stepped. A scheduler that cannot be read exactly is refused with the reason, never guessed.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any, cast

from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from loadtune.errors import UsageError
from loadtune.schedule.curve import (
    Constant,
    Cosine,
    Curve,
    Exponential,
    MultiStepDecay,
    Piecewise,
    Plateau,
    Polynomial,
    Product,
    Sequential,
    StepDecay,
    Unit,
)

Curves = tuple[Curve, ...]
"""One curve for each parameter group."""

OWN_CURVE_HINT = "describe the schedule with loadtune.schedule.curve instead"

UNREADABLE: dict[type[LRScheduler], str] = {
    LambdaLR: "it calls a function of the step number, which shows no constants",
    MultiplicativeLR: "it calls a function of the step number, which shows no constants",
}
"""Why a class of torch's cannot be read, where the reason is known."""


def read_curves(scheduler: LRScheduler, unit: Unit) -> Curves:
    """Return the curves that one of torch's schedulers follows, one for each parameter group, from its beginning.

    What torch gives as absolute rates (`eta_min`, `max_lr`) is divided by the group's base rate, so that it grows with
    it: groups with different base rates have different curves. OneCycleLR's cycling of the momentum is not part of
    them, and a warning says so. CosineAnnealingLR rises again after T_max, and so does its curve.

    Args:
        scheduler: StepLR, MultiStepLR, ExponentialLR, CosineAnnealingLR, PolynomialLR, OneCycleLR, LinearLR,
            ConstantLR, SequentialLR of these, or ChainedScheduler of those that multiply. It may have been stepped.
        unit: How many samples lie between two of its steps.

    Raises:
        UsageError: It is another class (LambdaLR hides its constants in a function), or has impossible constants.
    """
    read = _READERS.get(type(scheduler))
    name = type(scheduler).__name__
    if read is None:
        reason = UNREADABLE.get(type(scheduler), "it is none of the classes whose curve is known")
        raise UsageError(f"{name} cannot be followed in samples: {reason}", OWN_CURVE_HINT)
    try:
        return read(scheduler, unit)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{name} cannot be followed in samples: {error}", OWN_CURVE_HINT) from error


def read_plateau(scheduler: ReduceLROnPlateau) -> Plateau:
    """Return the constants of a ReduceLROnPlateau; `min_lr` and `eps` relative to each group's base rate.

    Raises:
        UsageError: A group has the base rate 0, or the class is a subclass, which may do something else.
    """
    if type(scheduler) is not ReduceLROnPlateau:
        raise UsageError(f"{type(scheduler).__name__} is not torch's ReduceLROnPlateau", OWN_CURVE_HINT)
    try:
        bases = [float(group.get("initial_lr", group["lr"])) for group in scheduler.optimizer.param_groups]
        return Plateau(
            mode=scheduler.mode,
            factor=scheduler.factor,
            patience=scheduler.patience,
            threshold=scheduler.threshold,
            threshold_mode=scheduler.threshold_mode,
            cooldown=scheduler.cooldown,
            floors=tuple(low / base for low, base in zip(scheduler.min_lrs, bases, strict=True)),
            least_changes=tuple(scheduler.eps / base for base in bases),
        )
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"ReduceLROnPlateau cannot be taken over: {error}", OWN_CURVE_HINT) from error


def count_steps(scheduler: LRScheduler) -> int:
    """Return how often a scheduler has been stepped."""
    if isinstance(scheduler, ChainedScheduler):  # it counts nothing itself
        return count_steps(_children(scheduler)[0])
    return int(scheduler.last_epoch)


def _children(scheduler: LRScheduler) -> list[LRScheduler]:
    return cast(list[LRScheduler], vars(scheduler)["_schedulers"])


def _for_all_groups(scheduler: LRScheduler, curve: Curve) -> Curves:
    return (curve,) * len(scheduler.optimizer.param_groups)


def _base_rates(scheduler: LRScheduler) -> list[float]:
    return [float(rate) for rate in scheduler.base_lrs]


def _read_step(scheduler: StepLR, unit: Unit) -> Curves:
    return _for_all_groups(scheduler, StepDecay(every=scheduler.step_size, gamma=scheduler.gamma, unit=unit))


def _read_multi_step(scheduler: MultiStepLR, unit: Unit) -> Curves:
    milestones = tuple(float(each) for each in sorted(scheduler.milestones.elements()))
    return _for_all_groups(scheduler, MultiStepDecay(milestones=milestones, gamma=scheduler.gamma, unit=unit))


def _read_exponential(scheduler: ExponentialLR, unit: Unit) -> Curves:
    if scheduler.gamma <= 0:
        raise ValueError("gamma is not positive")
    return _for_all_groups(scheduler, Exponential(k=-math.log(scheduler.gamma), unit=unit))


def _read_polynomial(scheduler: PolynomialLR, unit: Unit) -> Curves:
    return _for_all_groups(scheduler, Polynomial(total=scheduler.total_iters, power=scheduler.power, unit=unit))


def _read_cosine(scheduler: CosineAnnealingLR, unit: Unit) -> Curves:
    total, lowest = scheduler.T_max, scheduler.eta_min
    return tuple(
        Cosine(total=total, floor=lowest / base, is_periodic=True, unit=unit) for base in _base_rates(scheduler)
    )


def _read_constant(scheduler: ConstantLR, unit: Unit) -> Curves:
    curves = (Constant(ratio=scheduler.factor), Constant())
    return _for_all_groups(scheduler, Sequential(curves=curves, milestones=(scheduler.total_iters,), unit=unit))


def _read_linear(scheduler: LinearLR, unit: Unit) -> Curves:
    points = ((0.0, scheduler.start_factor), (float(scheduler.total_iters), scheduler.end_factor))
    return _for_all_groups(scheduler, Piecewise(points=points, unit=unit))


def _read_one_cycle(scheduler: OneCycleLR, unit: Unit) -> Curves:
    """Read the phases by their ends. torch's last phase ends one step before total_steps, and stays there here."""
    held: dict[str, Any] = vars(scheduler)
    phases, shape = held["_schedule_phases"], "cosine" if held["_anneal_func_type"] == "cos" else "linear"
    if scheduler.cycle_momentum:
        warnings.warn(
            "OneCycleLR also cycles the momentum (beta1 for Adam). A curve does not: the momentum stays where it is "
            "now. Set it in the optimizer; OneCycleLR(cycle_momentum=False) has none to cycle.",
            UserWarning,
            stacklevel=2,
        )
    curves: list[Curve] = []
    for group, base in zip(scheduler.optimizer.param_groups, _base_rates(scheduler), strict=True):
        ends = [(float(phase["end_step"]), float(group[phase["end_lr"]]) / base) for phase in phases]
        first = [(0.0, 1.0)] if ends[0][0] > 0 else []  # with pct_start = 0 torch is past the rise from the start
        curves.append(Piecewise(points=(*first, *ends), shape=shape, unit=unit))  # type: ignore[arg-type]
    return tuple(curves)


def _read_sequential(scheduler: SequentialLR, unit: Unit) -> Curves:
    milestones = tuple(float(each) for each in vars(scheduler)["_milestones"])
    children = [read_curves(child, unit) for child in _children(scheduler)]
    return tuple(Sequential(curves=curves, milestones=milestones, unit=unit) for curves in zip(*children, strict=True))


def _read_chained(scheduler: ChainedScheduler, unit: Unit) -> Curves:
    """Read a product. Only factors that multiply whatever rate they find make one."""
    for child in _children(scheduler):
        does_multiply = type(child) in MULTIPLYING or (isinstance(child, CosineAnnealingLR) and child.eta_min == 0)
        if not does_multiply:
            raise ValueError(f"{type(child).__name__} in it does not multiply the rate that it finds")
    children = [read_curves(child, unit) for child in _children(scheduler)]
    return tuple(Product(curves=curves) for curves in zip(*children, strict=True))


MULTIPLYING = {StepLR, MultiStepLR, ExponentialLR, PolynomialLR, LinearLR, ConstantLR}

_READERS: dict[type[LRScheduler], Callable[[Any, Unit], Curves]] = {
    StepLR: _read_step,
    MultiStepLR: _read_multi_step,
    ExponentialLR: _read_exponential,
    PolynomialLR: _read_polynomial,
    CosineAnnealingLR: _read_cosine,
    ConstantLR: _read_constant,
    LinearLR: _read_linear,
    OneCycleLR: _read_one_cycle,
    SequentialLR: _read_sequential,
    ChainedScheduler: _read_chained,
}
"""By exact class: a subclass may compute something else."""
