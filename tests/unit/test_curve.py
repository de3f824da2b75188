"""Are the curves the closed forms that they say, in every unit, and do they survive JSON?"""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    epochs,
    iterations,
    with_warm_up,
)
from tests.curves import curves, plateaus, simple_curves

EPOCH = epochs(1464)
CLOSE = {"rel": 1e-12, "abs": 0.0}


@pytest.mark.parametrize(
    ("curve", "samples", "ratio"),
    [
        (Constant(), 10**9, 1.0),
        (Constant(ratio=0.25), 0, 0.25),
        # Halved every 5 epochs: the sample that completes the fifth changes the rate.
        (StepDecay(every=5, gamma=0.5, unit=EPOCH), 5 * 1464 - 1, 1.0),
        (StepDecay(every=5, gamma=0.5, unit=EPOCH), 5 * 1464, 0.5),
        (StepDecay(every=5, gamma=0.5, unit=EPOCH), 23 * 1464, 0.0625),
        (StepDecay(every=20, unit=EPOCH), 60 * 1464, 0.001),
        (StepDecay(every=2.5, gamma=0.5, unit=iterations(4)), 9, 1.0),
        (StepDecay(every=2.5, gamma=0.5, unit=iterations(4)), 10, 0.5),
        (MultiStepDecay(milestones=(30, 60, 80), unit=EPOCH), 60 * 1464, 0.01),
        (MultiStepDecay(milestones=(30, 30), unit=EPOCH), 30 * 1464, 0.01),
        (MultiStepDecay(milestones=(), unit=EPOCH), 30 * 1464, 1.0),
        (Exponential(k=0.1, unit=EPOCH), 10 * 1464, math.exp(-1)),
        (Exponential(k=0.1, unit=EPOCH), 732, math.exp(-0.05)),
        (Exponential(k=0.1, unit=epochs(1464, is_stepped=True)), 10 * 1464 + 732, math.exp(-1)),
        (InverseTime(k=0.5, unit=EPOCH), 4 * 1464, 1 / 3),
        (Polynomial(total=50, unit=EPOCH), 25 * 1464, 0.5**0.9),
        (Polynomial(total=50, unit=EPOCH), 50 * 1464, 0.0),
        (Polynomial(total=50, unit=EPOCH), 51 * 1464, 0.0),
        (Polynomial(total=30_000, unit=iterations(16)), 16 * 15_000, 0.5**0.9),
        (Cosine(total=50, unit=EPOCH), 25 * 1464, 0.5),
        (Cosine(total=50, floor=0.2, unit=EPOCH), 25 * 1464, 0.6),
        (Cosine(total=50, floor=0.2, unit=EPOCH), 99 * 1464, 0.2),
        (Cosine(total=50, floor=0.2, is_periodic=True, unit=EPOCH), 100 * 1464, 1.0),
        (Piecewise(points=((0, 0.1), (5, 1.0)), unit=EPOCH), 0, 0.1),
        (Piecewise(points=((0, 0.1), (5, 1.0)), unit=EPOCH), 1464 * 5 // 2, 0.55),
        (Piecewise(points=((0, 0.1), (5, 1.0)), unit=EPOCH), 1464 * 9, 1.0),
        (Piecewise(points=((2, 0.0), (4, 1.0), (8, 0.5)), shape="cosine", unit=EPOCH), 1464 * 6, 0.75),
        (Piecewise(points=((2, 0.3), (4, 1.0)), unit=EPOCH), 1464, 0.3),
        (
            Sequential(curves=(Constant(ratio=0.1), Exponential(k=1, unit=EPOCH)), milestones=(5,), unit=EPOCH),
            5 * 1464 - 1,
            0.1,
        ),
        (
            Sequential(curves=(Constant(ratio=0.1), Exponential(k=1, unit=EPOCH)), milestones=(5,), unit=EPOCH),
            7 * 1464,
            math.exp(-2),
        ),
        (Product(curves=(Constant(ratio=0.5), Exponential(k=1, unit=EPOCH))), 1464, 0.5 * math.exp(-1)),
    ],
)
def test_closed_forms(curve, samples, ratio):
    """The formulas of the textbooks, on both sides of every border."""
    assert curve.ratio_at(samples) == pytest.approx(ratio, **CLOSE)


@given(simple_curves(), st.integers(0, 20), st.integers(1, 36))
def test_a_stepped_curve_moves_at_whole_units_only(curve, whole, more):
    """Within a unit the rate is that of its beginning, as under a scheduler stepped once a unit."""
    unit = getattr(curve, "unit", None)
    if unit is None or not unit.is_stepped:
        return
    begin = whole * unit.samples
    assert curve.ratio_at(begin + min(more, unit.samples - 1)) == curve.ratio_at(begin)


@pytest.mark.parametrize("samples", [0, 16, 1464, 36_600, 70_000])
def test_the_same_curve_in_epochs_and_in_iterations(samples):
    """The unit is how a schedule is said, not what it is."""
    said = [
        (Polynomial(total=50, unit=EPOCH), Polynomial(total=4575, unit=iterations(16))),
        (Cosine(total=50, floor=0.1, unit=EPOCH), Cosine(total=4575, floor=0.1, unit=iterations(16))),
        (Exponential(k=0.0915, unit=EPOCH), Exponential(k=0.001, unit=iterations(16))),
        (InverseTime(k=0.0915, unit=EPOCH), InverseTime(k=0.001, unit=iterations(16))),
        (StepDecay(every=5, unit=EPOCH), StepDecay(every=457.5, unit=iterations(16))),
    ]
    for first, second in said:
        assert first.ratio_at(samples) == pytest.approx(second.ratio_at(samples), **CLOSE)


@given(curves() | plateaus())
def test_json_gives_the_same_schedule_back(schedule):
    """A report can hold any schedule."""
    again = msgspec.json.decode(msgspec.json.encode(schedule), type=Schedule)
    assert again == schedule
    assert msgspec.convert(msgspec.to_builtins(schedule), Schedule) == schedule


@given(curves(), st.integers(0, 1500))
def test_rates_are_numbers_and_not_negative(curve, samples):
    """No curve leaves the non-negative numbers, however long a training runs."""
    assert 0 <= curve.ratio_at(samples) < math.inf


@given(simple_curves(), st.floats(0.1, 20), st.floats(0, 1), st.integers(0, 2000))
def test_a_warm_up_ends_and_shifts_nothing(curve, length, start, samples):
    """Its stated properties: before its end the curve times a ramp from `start`, after it the curve itself."""
    unit = epochs(50)
    warmed = with_warm_up(curve, length=length, unit=unit, start=start)
    ramp = min(1.0, start + (1 - start) * samples / 50 / length)
    assert warmed.ratio_at(samples) == pytest.approx(curve.ratio_at(samples) * ramp, rel=1e-12, abs=1e-300)
    if samples / 50 >= length:
        assert warmed.ratio_at(samples) == curve.ratio_at(samples)
    assert warmed.ratio_at(0) == curve.ratio_at(0) * start


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (Unit, {"name": "sample", "samples": 1}),
        (Unit, {"name": "epoch", "samples": 0}),
        (Constant, {"ratio": -0.1}),
        (Constant, {"ratio": math.nan}),
        (StepDecay, {"every": 0, "unit": EPOCH}),
        (StepDecay, {"every": 1, "gamma": -1, "unit": EPOCH}),
        (MultiStepDecay, {"milestones": (3, 2), "unit": EPOCH}),
        (MultiStepDecay, {"milestones": (-1,), "unit": EPOCH}),
        (Exponential, {"k": -0.1, "unit": EPOCH}),
        (Exponential, {"k": math.inf, "unit": EPOCH}),
        (InverseTime, {"k": -0.1, "unit": EPOCH}),
        (Polynomial, {"total": 0, "unit": EPOCH}),
        (Polynomial, {"total": 1, "power": 0, "unit": EPOCH}),
        (Cosine, {"total": -1, "unit": EPOCH}),
        (Cosine, {"total": 1, "floor": -0.1, "unit": EPOCH}),
        (Piecewise, {"points": ((0, 1),), "unit": EPOCH}),
        (Piecewise, {"points": ((1, 1), (1, 2)), "unit": EPOCH}),
        (Piecewise, {"points": ((0, 1), (1, -2)), "unit": EPOCH}),
        (Sequential, {"curves": (Constant(),), "milestones": (1,), "unit": EPOCH}),
        (Sequential, {"curves": (Constant(), Constant()), "milestones": (0,), "unit": EPOCH}),
        (Product, {"curves": ()}),
        (Plateau, {"mode": "low"}),
        (Plateau, {"factor": 1.0}),
        (Plateau, {"patience": -1}),
        (Plateau, {"floors": ()}),
    ],
)
def test_what_is_no_schedule_is_refused(make, changes):
    """A record that exists can be followed."""
    with pytest.raises(ValueError, match=r"unit|finite|needs|rate"):
        make(**changes)


def test_json_with_impossible_numbers_is_refused():
    """What comes from a file is checked as what comes from a call."""
    bad = b'{"kind":"polynomial","total":0,"unit":{"name":"epoch","samples":10}}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(bad, type=Schedule)
