"""Does the text of a schedule name its units, and are the constants per step those of the scaling rules?"""

import math

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
    Sequential,
    StepDecay,
    epochs,
    iterations,
    with_warm_up,
)
from loadtune.schedule.words import compute_step_constants, describe
from tests.curves import curves, plateaus

EPOCH, STEP = epochs(1464), iterations(16)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Constant(), "constant"),
        (Constant(ratio=0.5), "constant, 0.5 of the base rate"),
        (StepDecay(every=5, gamma=0.5, unit=EPOCH), "times 0.5 every 5 epochs of 1,464 samples"),
        (StepDecay(every=1, gamma=0.5, unit=EPOCH), "times 0.5 every 1 epoch of 1,464 samples"),
        (
            MultiStepDecay(milestones=(30, 60, 80), unit=EPOCH),
            "times 0.1 after 30, 60 and 80 epochs of 1,464 samples",
        ),
        (Exponential(k=0.001, unit=STEP), "exp(-k t), k = 0.001 per iteration of 16 samples (gamma = 0.999)"),
        (
            InverseTime(k=0.05, unit=epochs(1464, is_stepped=True)),
            "1 / (1 + k t), k = 0.05 per epoch of 1,464 samples, stepped once an epoch",
        ),
        (Polynomial(total=50, unit=EPOCH), "(1 - t/T)^0.9, T = 50 epochs of 1,464 samples"),
        (Cosine(total=50, unit=EPOCH), "half a cosine down to 0 over 50 epochs of 1,464 samples"),
        (
            Cosine(total=9, floor=0.01, is_periodic=True, unit=STEP),
            "half a cosine down to 0.01 of the base rate over 9 iterations of 16 samples, then up again",
        ),
        (
            with_warm_up(Constant(), length=5, unit=EPOCH, start=0.25),
            "linear through 0.25 at 0, 1 at 5 epochs of 1,464 samples; multiplied by: constant",
        ),
        (
            Sequential(curves=(Constant(ratio=0.1), Constant()), milestones=(5,), unit=EPOCH),
            "constant, 0.1 of the base rate; from 5 epochs of 1,464 samples on constant",
        ),
        (Plateau(), "times 0.1 when the metric has not fallen by 0.01 % in more than 10 evaluations"),
        (
            Plateau(mode="max", threshold=0.5, threshold_mode="abs", interval_samples=8000, curve=Constant(ratio=0.5)),
            (
                "times 0.1 when the metric has not risen by 0.5 in more than 10 evaluations, one every 8,000 samples; "
                "multiplied by: constant, 0.5 of the base rate"
            ),
        ),
    ],
)
def test_one_line_names_the_units(schedule, text):
    """Above all whether k is per iteration or per epoch."""
    assert describe(schedule) == text


@given(curves() | plateaus())
def test_every_schedule_has_words(schedule):
    """One line, whatever is composed."""
    text = describe(schedule)
    assert text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("schedule", "constants"),
    [
        (StepDecay(every=100, unit=STEP), [("step_size", (25.0,)), ("gamma", (0.1,))]),
        (MultiStepDecay(milestones=(100, 200), unit=STEP), [("milestones", (25.0, 50.0)), ("gamma", (0.1,))]),
        (Exponential(k=0.001, unit=STEP), [("k", (0.004,)), ("gamma", (math.exp(-0.001) ** 4,))]),
        (InverseTime(k=0.001, unit=STEP), [("k", (0.004,))]),
        (Polynomial(total=30_000, unit=STEP), [("total_iters", (7500.0,)), ("power", (0.9,))]),
        (Cosine(total=30_000, unit=STEP), [("T_max", (7500.0,))]),
        # 1464 samples in batches of 64 are 23 steps, the last of 56 samples.
        (Polynomial(total=50, unit=EPOCH), [("total_iters", (1150.0,)), ("power", (0.9,))]),
        (Piecewise(points=((0, 0.1), (5, 1)), unit=EPOCH), [("points at", (0.0, 115.0))]),
        (Constant(), []),
        (Plateau(interval_samples=1600), [("patience", (10.0,)), ("steps between evaluations", (25.0,))]),
        (
            Sequential(curves=(Constant(), Cosine(total=8, unit=STEP)), milestones=(100,), unit=STEP),
            [("T_max", (2.0,)), ("milestones", (25.0,))],
        ),
        # Stepped once an epoch, nothing depends on the batch.
        (StepDecay(every=5, unit=epochs(1464, is_stepped=True)), [("step_size", (5.0,)), ("gamma", (0.1,))]),
    ],
)
def test_constants_at_four_times_the_batch(schedule, constants):
    """k' = kappa k, gamma' = gamma^kappa, and what counts steps is divided by kappa."""
    found = compute_step_constants(schedule, 64)
    assert [name for name, _ in found] == [name for name, _ in constants]
    for (_, values), (_, expected) in zip(found, constants, strict=True):
        assert values == pytest.approx(expected, rel=1e-12)


@given(st.integers(1, 512), st.integers(1, 512), st.floats(1e-5, 0.1))
def test_gamma_to_the_kappa(batch_size, new_batch_size, k):
    """For any ratio of batches."""
    curve = Exponential(k=k, unit=iterations(batch_size))
    (_, (_, (gamma,))) = compute_step_constants(curve, batch_size)
    (_, (_, (new_gamma,))) = compute_step_constants(curve, new_batch_size)
    assert new_gamma == pytest.approx(gamma ** (new_batch_size / batch_size), rel=1e-12)
