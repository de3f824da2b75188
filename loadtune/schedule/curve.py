"""What is the learning rate after so many samples, relative to the base rate?

A schedule that counts samples instead of steps is the same for every batch size: another batch multiplies the base
rate by f(kappa) and leaves the curve alone. So a curve here is a function phi(s) of the samples seen, and
the rate is base rate * phi(s). Its numbers stay in the user's own unit (epochs or iterations), and the `Unit` says how
many samples one of them is. Curves are records: they can be stored in JSON and compared.

Pure: no optimizer and no torch is involved. `anneal` follows a curve in a training, `words` says it in a line.
"""

import math
from bisect import bisect_right
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from loadtune.records.record import Record

WARM_UP_START = 1 / 3
"""Share of the rate at which a warm-up begins, torch's own default (LinearLR's start_factor). At 0 the first step
would train nothing; at 1 there is no warm-up."""

UNIT_NAMES = ("epoch", "iteration")

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]


class Unit(Record, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What the numbers of a schedule count: epochs or iterations, each a fixed number of samples."""

    name: Annotated[Literal["epoch", "iteration"], Meta(description="What the user's numbers count.")]
    samples: Annotated[int, Meta(ge=1, description="Samples in one unit, over all ranks.")]
    is_stepped: Annotated[
        bool,
        Meta(description="The rate changes at whole units only, as with a scheduler that is stepped once an epoch."),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in UNIT_NAMES or self.samples < 1:
            raise ValueError(f"no unit: {self.name} of {self.samples} samples")

    def hold(self, samples: float) -> float:
        """Return the samples that count: all that were seen, or those of whole units where the rate is stepped."""
        return samples - samples % self.samples if self.is_stepped else samples

    def count(self, samples: float) -> float:
        """Return how many units those samples are; at a whole number of units the quotient is exact."""
        return self.hold(samples) / self.samples


def epochs(samples: int, *, is_stepped: bool = False) -> Unit:
    """Return the unit of a schedule written in epochs of so many samples.

    Args:
        samples: Samples that one epoch yields over all ranks; with drop_last, without those dropped.
        is_stepped: The rate changes once an epoch, not with every batch.
    """
    return Unit(name="epoch", samples=samples, is_stepped=is_stepped)


def iterations(batch_size: int) -> Unit:
    """Return the unit of a schedule written in optimizer steps of so many samples (accumulated, over all ranks)."""
    return Unit(name="iteration", samples=batch_size)


class Shape(Record, frozen=True, kw_only=True, tag_field="kind", repr_omit_defaults=True):
    """Base of all curves."""

    def ratio_at(self, samples: float) -> float:
        """Return phi: the rate after that many samples (not negative), relative to the base rate."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        super().__post_init__()
        if (reason := self._find_fault()) is not None:
            raise ValueError(f"{type(self).__name__}: {reason}")

    def _find_fault(self) -> str | None:
        """Return why these numbers make no curve, or None."""
        return None


class Constant(Shape, frozen=True, kw_only=True, tag="constant"):
    """The same rate throughout."""

    ratio: Annotated[NotNegative, Meta(description="Relative to the base rate.")] = 1.0

    def ratio_at(self, samples: float) -> float:
        """Return the ratio, whatever was seen."""
        return self.ratio

    def _find_fault(self) -> str | None:
        return None if self.ratio >= 0 else "a rate is not negative"


class StepDecay(Shape, frozen=True, kw_only=True, tag="step-decay"):
    """gamma^floor(t / every): the rate times gamma at regular intervals (torch's StepLR)."""

    every: Annotated[Positive, Meta(description="Units between two decays.")]
    gamma: NotNegative = 0.1
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return gamma to the number of whole intervals."""
        return float(self.gamma ** (self.unit.hold(samples) // (self.every * self.unit.samples)))

    def _find_fault(self) -> str | None:
        return None if self.every > 0 and self.gamma >= 0 else "needs every > 0 and gamma >= 0"


class MultiStepDecay(Shape, frozen=True, kw_only=True, tag="multi-step-decay"):
    """The rate times gamma at each milestone (torch's MultiStepLR); one given twice counts twice."""

    milestones: Annotated[tuple[NotNegative, ...], Meta(description="In units, none before its predecessor.")]
    gamma: NotNegative = 0.1
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return gamma to the number of milestones reached."""
        reached = bisect_right([each * self.unit.samples for each in self.milestones], self.unit.hold(samples))
        return float(self.gamma**reached)

    def _find_fault(self) -> str | None:
        is_sorted = list(self.milestones) == sorted(self.milestones)
        if not is_sorted or min(self.milestones, default=0) < 0 or self.gamma < 0:
            return "needs milestones in order, none negative, and gamma >= 0"
        return None


class Exponential(Shape, frozen=True, kw_only=True, tag="exponential"):
    """exp(-k t): the a0 * e^(-k t) of the textbooks; torch's ExponentialLR has gamma = e^(-k)."""

    k: Annotated[NotNegative, Meta(description="Decay per unit.")]
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return exp(-k t)."""
        return math.exp(-self.k * self.unit.count(samples))

    def _find_fault(self) -> str | None:
        return None if self.k >= 0 else "with k < 0 the rate grows without end"


class InverseTime(Shape, frozen=True, kw_only=True, tag="inverse-time"):
    """1 / (1 + k t): the a0 / (1 + k t) of the textbooks, for which torch has no class."""

    k: Annotated[NotNegative, Meta(description="Decay per unit.")]
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return 1 / (1 + k t)."""
        return 1.0 / (1.0 + self.k * self.unit.count(samples))

    def _find_fault(self) -> str | None:
        return None if self.k >= 0 else "with k < 0 the rate grows without end"


class Polynomial(Shape, frozen=True, kw_only=True, tag="polynomial"):
    """(1 - t / total)^power, then 0 (torch's PolynomialLR); the "poly" policy of DeepLab has power 0.9."""

    total: Annotated[Positive, Meta(description="Units until the rate is 0.")]
    power: Positive = 0.9
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return (1 - t / total)^power."""
        # torch's own order of operations. total - t would be a little more exact, and differ from torch at the end.
        return float((1.0 - min(self.unit.count(samples), self.total) / self.total) ** self.power)

    def _find_fault(self) -> str | None:
        return None if self.total > 0 and self.power > 0 else "needs total > 0 and power > 0"


class Cosine(Shape, frozen=True, kw_only=True, tag="cosine"):
    """Half a cosine from 1 down to the floor (torch's CosineAnnealingLR), and there it stays."""

    total: Annotated[Positive, Meta(description="Units until the floor is reached.")]
    floor: Annotated[NotNegative, Meta(description="Lowest rate relative to the base rate: eta_min / lr.")] = 0.0
    is_periodic: Annotated[bool, Meta(description="Rise again after the floor, as torch's class does.")] = False
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return floor + (1 - floor) * (1 + cos(pi t / total)) / 2."""
        units = self.unit.count(samples)
        if not self.is_periodic:
            units = min(units, self.total)
        return self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * units / self.total)) / 2.0

    def _find_fault(self) -> str | None:
        return None if self.total > 0 and self.floor >= 0 else "needs total > 0 and floor >= 0"


class Piecewise(Shape, frozen=True, kw_only=True, tag="piecewise"):
    """From point to point in straight lines or half cosines: a warm-up, torch's LinearLR, OneCycleLR."""

    points: Annotated[tuple[tuple[float, float], ...], Meta(description="(units, ratio), earliest first.")]
    shape: Literal["linear", "cosine"] = "linear"
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return what lies between the two points around t; before the first and after the last, theirs."""
        units = self.unit.count(samples)
        index = bisect_right([at for at, _ in self.points], units)
        since, start = self.points[max(index - 1, 0)]
        if units <= since or index == len(self.points):
            return start
        until, end = self.points[index]
        share = (units - since) / (until - since)
        if self.shape == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1.0)

    def _find_fault(self) -> str | None:
        times = [units for units, _ in self.points]
        if len(times) < 2 or any(until <= since for since, until in pairwise(times)):
            return "needs two points or more, each later than the one before"
        return None if min(ratio for _, ratio in self.points) >= 0 else "a rate is not negative"


class Sequential(Shape, frozen=True, kw_only=True, tag="sequential"):
    """One curve after another, each beginning anew at its milestone (torch's SequentialLR)."""

    curves: "tuple[Curve, ...]"
    milestones: Annotated[tuple[Positive, ...], Meta(description="Units at which the second, third ... curve begins.")]
    unit: Unit

    def ratio_at(self, samples: float) -> float:
        """Return what the curve that runs then gives for the samples since it began."""
        starts = [0.0, *(each * self.unit.samples for each in self.milestones)]
        index = bisect_right(starts, self.unit.hold(samples)) - 1
        return self.curves[index].ratio_at(samples - starts[index])

    def _find_fault(self) -> str | None:
        times = (0.0, *self.milestones)
        if len(times) != len(self.curves) or any(until <= since for since, until in pairwise(times)):
            return "needs one curve more than milestones, and these above 0 and in order"
        return None


class Product(Shape, frozen=True, kw_only=True, tag="product"):
    """Curves multiplied (torch's ChainedScheduler of chainable schedulers), such as a warm-up and what it warms up."""

    curves: "tuple[Curve, ...]"

    def ratio_at(self, samples: float) -> float:
        """Return the product of what the curves give."""
        return math.prod(curve.ratio_at(samples) for curve in self.curves)

    def _find_fault(self) -> str | None:
        return None if self.curves else "needs a curve"


Curve: TypeAlias = (
    Constant
    | StepDecay
    | MultiStepDecay
    | Exponential
    | InverseTime
    | Polynomial
    | Cosine
    | Piecewise
    | Sequential
    | Product
)
"""Any schedule that is a function of the samples seen alone."""


class Plateau(Record, frozen=True, kw_only=True, tag_field="kind", tag="plateau", repr_omit_defaults=True):
    """Reduce the rate when a metric stops improving (torch's ReduceLROnPlateau, whose names and defaults these are).

    It depends on what the metric did, so no curve of samples says it in advance. Its state changes when a metric is
    told, and by that metric alone: told the same metrics, runs with any batch size reduce at the same tellings. So
    evaluate after the same number of samples (an epoch, or `interval_samples`), whatever the batch. Floors and least
    changes are relative to the base rate, and so grow with it.
    """

    mode: Literal["min", "max"] = "min"
    factor: Annotated[float, Meta(gt=0, lt=1, description="The rate is multiplied by this.")] = 0.1
    patience: Annotated[int, Meta(ge=0, description="Tellings without improvement that are let pass.")] = 10
    threshold: Annotated[float, Meta(ge=0, description="What counts as an improvement.")] = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: Annotated[int, Meta(ge=0, description="Tellings after a reduction that count nothing.")] = 0
    floors: Annotated[
        tuple[float, ...], Meta(min_length=1, description="min_lr / lr: one for all parameter groups, or one for each.")
    ] = (0.0,)
    least_changes: Annotated[
        tuple[float, ...], Meta(min_length=1, description="eps / lr: a smaller reduction is not made; as `floors`.")
    ] = (0.0,)
    interval_samples: (
        Annotated[int, Meta(ge=1, description="Samples between two tellings; None: an epoch, or not known.")] | None
    ) = None
    curve: Annotated[Curve, Meta(description="What the reductions are multiplied with, such as a warm-up.")] = (
        Constant()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in {"min", "max"} or self.threshold_mode not in {"rel", "abs"} or not 0 < self.factor < 1:
            raise ValueError(f"Plateau: needs mode min or max, threshold_mode rel or abs, 0 < factor < 1: {self}")
        numbers = (self.patience, self.threshold, self.cooldown, *self.floors, *self.least_changes)
        if min(numbers) < 0 or not self.floors or not self.least_changes:
            raise ValueError(f"Plateau: needs floors and least changes, and no negative number: {self}")


Schedule: TypeAlias = Curve | Plateau


def with_warm_up(curve: Curve, *, length: float, unit: Unit, start: float = WARM_UP_START) -> Product:
    """Return the curve with a linear warm-up: its rate times a ramp from `start` to 1.

    The ramp does not shift the curve: after `length` the rate is what it would have been without, and milestones and
    the end stay where they are (Goyal et al. 2017, 2.2: after the warm-up the original schedule goes on). For a curve
    that begins only after its warm-up, use `Sequential`.

    Args:
        curve: What is to be warmed up. For a `Plateau`, replace its `curve` by the result for that.
        length: Units until the whole rate is reached.
        unit: What `length` counts.
        start: Share of the rate at the first step. 1 / f(kappa) begins at the rate of the smaller batch.

    Raises:
        ValueError: The length is not positive, or the start negative.
    """
    return Product(curves=(Piecewise(points=((0.0, start), (length, 1.0)), unit=unit), curve))
