"""Is the rate a function of samples seen, whatever the batch and whatever happens to the run?"""

import copy
import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import (
    ExponentialLR,
)

from loadtune.errors import UsageError
from loadtune.schedule.anneal import anneal
from loadtune.schedule.curve import (
    Constant,
    Exponential,
    Plateau,
    Polynomial,
    StepDecay,
    epochs,
    iterations,
    with_warm_up,
)
from tests.curves import curves, plateaus
from tests.training import make_optimizer, rates_of, save_and_load, step

POLY = Polynomial(total=50, unit=epochs(1464))
CLOSE = {"rel": 1e-12, "abs": 1e-290}
"""Twelve digits, of numbers that have as many: below 1e-308 a float has fewer."""
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def follow(curve: Any, batch_size: int, until: int, rate: float, factor: float) -> dict[int, float]:
    """Train with one batch size; return the rate of every step by the samples seen before it."""
    optimizer = make_optimizer(rate)
    scheduler = anneal(optimizer, curve, batch_size=batch_size, rate_factor=factor)
    found = {0: rates_of(optimizer)[0]}
    while scheduler.samples_seen < until:
        step(scheduler)
        found[scheduler.samples_seen] = rates_of(optimizer)[0]
    return found


@MANY
@given(curves(), st.fractions("1/9", 9, max_denominator=9), st.integers(1, 20), st.floats(0.1, 10))
def test_equal_samples_give_equal_rates_for_any_ratio_of_batches(curve, kappa, scale, factor):
    """lr(B', s) / f(kappa) = lr(B, s), wherever both have a step."""
    batch_size, new_batch_size = kappa.denominator * scale, kappa.numerator * scale
    until = 4 * math.lcm(batch_size, new_batch_size)
    old = follow(curve, batch_size, until, 0.1, 1.0)
    new = follow(curve, new_batch_size, until, 0.1, factor)
    common = old.keys() & new.keys()
    assert len(common) >= 5
    for samples in common:
        assert new[samples] / factor == pytest.approx(old[samples], **CLOSE)


ACTIONS = st.lists(
    st.one_of(
        st.just(("step", None)),
        st.tuples(st.just("step"), st.integers(1, 40)),
        st.tuples(st.just("batch"), st.tuples(st.integers(1, 64), st.floats(0.25, 4))),
        st.tuples(st.just("move"), st.sampled_from(["save", "copy", "pickle"])),
    ),
    min_size=1,
    max_size=40,
)


@pytest.mark.filterwarnings("ignore:Seems like")  # torch says so of any copied optimizer that has made no step yet
@MANY
@given(curves(), ACTIONS)
def test_nothing_that_happens_to_a_run_takes_it_off_the_curve(curve, actions):
    """Short batches, changes of the batch, and a move to another process at any step: only samples count."""
    rates = (0.1, 0.003)
    scheduler = anneal(make_optimizer(*rates), curve, batch_size=16, accumulation_steps=2, world_size=3)
    samples, factor, batch_size = 0, 1.0, 16
    for action, value in actions:
        if action == "step":
            step(scheduler, samples=value)
            samples += 3 * (2 * batch_size if value is None else value)
        elif action == "batch":
            batch_size, change = value
            scheduler.change_batch_size(batch_size, rate_factor=change)
            factor *= change
        elif value == "save":
            state = save_and_load({"optimizer": scheduler.optimizer.state_dict(), "scheduler": scheduler.state_dict()})
            scheduler = anneal(make_optimizer(1.0, 1.0), Constant(), batch_size=1)
            scheduler.optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
        else:
            move = copy.deepcopy if value == "copy" else lambda it: pickle.loads(pickle.dumps(it))  # noqa: S301
            scheduler = move(scheduler)
            scheduler.optimizer.step()
        assert scheduler.samples_seen == samples
        expected = [rate * factor * curve.ratio_at(samples) for rate in rates]
        assert rates_of(scheduler.optimizer) == pytest.approx(expected, **CLOSE)
        assert scheduler.get_last_lr() == rates_of(scheduler.optimizer)


@pytest.mark.parametrize("order", ["made first", "made last"])
def test_a_resumed_run_has_its_rate_at_once(order):
    """In the middle of an epoch, and whether the scheduler is made before or after the optimizer's state is loaded."""
    optimizer = make_optimizer(0.1)
    scheduler = anneal(optimizer, POLY, batch_size=16, samples_per_epoch=1464)
    for _ in range(130):
        step(scheduler)
    state, saved = save_and_load(scheduler.state_dict()), save_and_load(optimizer.state_dict())
    fresh = make_optimizer(0.1)
    if order == "made last":
        fresh.load_state_dict(saved)
    again = anneal(fresh, POLY, batch_size=16, samples_per_epoch=1464)
    if order == "made first":
        fresh.load_state_dict(saved)
    again.load_state_dict(state)
    assert rates_of(fresh) == rates_of(optimizer)
    for _ in range(130):
        step(scheduler)
        step(again)
        assert rates_of(fresh) == rates_of(optimizer)
    assert again.samples_seen == scheduler.samples_seen


def test_begins_where_it_is_told_without_a_saved_state():
    """`samples_seen` is enough to go on."""
    optimizer = make_optimizer(0.1)
    scheduler = anneal(optimizer, POLY, batch_size=16, samples_seen=25 * 1464)
    assert rates_of(optimizer) == pytest.approx([0.1 * 0.5**0.9], **CLOSE)
    step(scheduler)
    assert scheduler.samples_seen == 25 * 1464 + 16


@pytest.mark.parametrize(("batch_size", "accumulation", "world"), [(16, 1, 1), (16, 4, 1), (5, 3, 2), (2000, 1, 1)])
def test_a_short_last_step_of_an_epoch_is_known(batch_size, accumulation, world):
    """Steps without arguments count an epoch exactly, which frameworks need."""
    optimizer = make_optimizer()
    scheduler = anneal(
        optimizer,
        StepDecay(every=1, gamma=0.5, unit=epochs(1464)),
        batch_size=batch_size,
        samples_per_epoch=1464,
        accumulation_steps=accumulation,
        world_size=world,
    )
    steps = math.ceil(Fraction(1464, batch_size * accumulation * world))
    for epoch in range(1, 4):
        for index in range(steps):
            assert rates_of(optimizer) == [0.1 * 0.5 ** (epoch - 1)], (epoch, index)
            step(scheduler)
        assert scheduler.samples_seen == epoch * 1464


def test_without_an_epoch_no_step_is_short():
    """92 whole batches of 16 are 8 samples more than the epoch; the user who says nothing is told so by the docs."""
    scheduler = anneal(make_optimizer(), POLY, batch_size=16)
    for _ in range(92):
        step(scheduler)
    assert scheduler.samples_seen == 1472


def test_the_batch_changes_in_mid_training():
    """The rates change at once by the factor, the samples so far stay, and later steps count the new batch."""
    optimizer = make_optimizer(0.1, 0.01)
    scheduler = anneal(optimizer, POLY, batch_size=16)
    step(scheduler)
    before = rates_of(optimizer)
    scheduler.change_batch_size(32, rate_factor=4.0, accumulation_steps=2, world_size=1)
    assert rates_of(optimizer) == pytest.approx([4 * rate for rate in before], **CLOSE)
    assert (scheduler.samples_seen, scheduler.samples_per_step) == (16, 64)
    step(scheduler)
    assert scheduler.samples_seen == 80


def test_each_group_may_have_its_own_curve():
    """As torch's LambdaLR takes a function for each group."""
    optimizer = make_optimizer(0.1, 0.01)
    scheduler = anneal(optimizer, [Constant(), Exponential(k=1, unit=iterations(16))], batch_size=16)
    step(scheduler)
    assert rates_of(optimizer) == pytest.approx([0.1, 0.01 * math.exp(-1)], **CLOSE)


def test_a_rate_that_is_a_tensor_stays_the_same_tensor():
    """A captured graph reads the rate from it."""
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, foreach=False)
    held = optimizer.param_groups[0]["lr"]
    scheduler = anneal(optimizer, Exponential(k=1, unit=iterations(16)), batch_size=16)
    step(scheduler)
    assert optimizer.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(0.1 * math.exp(-1), **CLOSE)
    scheduler.load_state_dict(save_and_load(scheduler.state_dict()))
    scheduler.change_batch_size(32, rate_factor=2.0)
    scheduler.get_last_lr()[0].fill_(7.0)  # what is told is a copy
    assert optimizer.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(0.2 * math.exp(-1), **CLOSE)


def test_a_plateau_of_a_rate_that_is_a_tensor():
    """The base rate is a copy: it must not fall with the rate."""
    rate = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, foreach=False)
    scheduler = anneal(optimizer, Plateau(factor=0.5, patience=0), batch_size=16)
    for _ in range(3):
        scheduler.step(1.0)
    assert rates_of(optimizer) == pytest.approx([0.025], **CLOSE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 16.0}, "batch_size=16.0"),
        ({"batch_size": 16, "world_size": 0}, "world_size=0"),
        ({"batch_size": 16, "accumulation_steps": -1}, "accumulation_steps=-1"),
        ({"batch_size": 16, "samples_per_epoch": 0}, "samples_per_epoch=0"),
        ({"batch_size": 16, "samples_seen": -1}, "samples_seen=-1"),
        ({"batch_size": 16, "rate_factor": 0.0}, "rate_factor=0.0"),
        ({"batch_size": 16, "rate_factor": math.nan}, "rate_factor=nan"),
        ({"batch_size": 16, "stepped": "epoch"}, "stepped='epoch'"),
    ],
)
def test_impossible_numbers_are_refused(changes, told):
    """Before the optimizer is touched."""
    optimizer = make_optimizer()
    with pytest.raises(UsageError) as raised:
        anneal(optimizer, POLY, **changes)
    assert told in raised.value.what
    assert raised.value.hint
    assert rates_of(optimizer) == [0.1]


def test_numbers_of_numpy_are_saved_as_plain_ones():
    """len() of an index and a loader's batch size may be numpy's, which a file of weights does not hold."""
    scheduler = anneal(make_optimizer(), POLY, batch_size=np.int64(16), samples_per_epoch=np.int32(1464))
    step(scheduler, samples=np.int64(7))
    scheduler.change_batch_size(16, rate_factor=np.float64(2.0))
    state = save_and_load(scheduler.state_dict())
    assert (state["samples_seen"], state["rate_factor"]) == (7, 2.0)
    assert type(scheduler.batch_size) is type(scheduler.samples_per_epoch) is int


def test_a_refused_change_changes_nothing():
    """The run goes on as it was."""
    scheduler = anneal(make_optimizer(), POLY, batch_size=16)
    with pytest.raises(UsageError, match="world_size=0"):
        scheduler.change_batch_size(64, rate_factor=4.0, world_size=0)
    assert (scheduler.batch_size, scheduler.rate_factor) == (16, 1.0)
    with pytest.raises(UsageError, match="adds no samples"):
        step(scheduler, samples=0)
    assert scheduler.samples_seen == 0


def test_curves_for_other_groups_are_refused():
    """One for all, or one for each."""
    with pytest.raises(UsageError, match="2 curves for 3 parameter groups"):
        anneal(make_optimizer(1.0, 1.0, 1.0), [POLY, POLY], batch_size=16)


@pytest.mark.parametrize("kind", ["groups", "plateau", "torch"])
def test_a_state_of_another_scheduler_is_refused(kind):
    """It would be half loaded, and train on with a wrong rate."""
    optimizer = make_optimizer(0.1, 0.1) if kind == "groups" else make_optimizer(0.1)
    other: Any = anneal(optimizer, Plateau() if kind == "plateau" else POLY, batch_size=16)
    if kind == "torch":
        other = ExponentialLR(optimizer, 0.5)
    scheduler = anneal(make_optimizer(0.1), POLY, batch_size=16)
    with pytest.raises(UsageError, match="state"):
        scheduler.load_state_dict(other.state_dict())


METRICS = st.lists(st.floats(-10, 10), min_size=1, max_size=40)


class TestPlateau:
    """A plateau has state, which metrics alone change."""

    @MANY
    @given(plateaus(), METRICS, st.floats(0.1, 10), st.integers(0, 20))
    def test_any_batch_reduces_at_the_same_metrics(self, plateau, metrics, factor, saved_at):
        """With evaluations after the same samples, lr(B', s) / f(kappa) = lr(B, s) through save and load too."""
        old = anneal(make_optimizer(0.1, 0.01), plateau, batch_size=8)
        new = anneal(make_optimizer(0.1, 0.01), plateau, batch_size=24, rate_factor=factor)
        for index, metric in enumerate(metrics):
            for _ in range(3):
                old.step()
            new.step()
            old.step(metric)
            new.step(metric)
            if index == saved_at:
                state = save_and_load(new.state_dict())
                new = anneal(make_optimizer(0.1, 0.01), Plateau(), batch_size=1)
                new.load_state_dict(state)
            scaled = [rate / factor for rate in rates_of(new.optimizer)]
            assert scaled == pytest.approx(rates_of(old.optimizer), **CLOSE)

    def test_a_change_of_the_batch_keeps_what_was_counted(self):
        """The second metric without improvement reduces, whatever the batch has become."""
        optimizer = make_optimizer(0.1)
        scheduler = anneal(optimizer, Plateau(factor=0.5, patience=1), batch_size=16)
        scheduler.step(1.0)
        scheduler.step(1.0)
        scheduler.change_batch_size(64, rate_factor=4.0)
        assert rates_of(optimizer) == pytest.approx([0.4], **CLOSE)
        scheduler.step(1.0)
        assert rates_of(optimizer) == pytest.approx([0.2], **CLOSE)

    def test_floors_grow_with_the_base_rate(self):
        """min_lr scales by f(kappa), so that the last rate keeps its meaning."""
        optimizer = make_optimizer(0.1, 0.1)
        plateau = Plateau(factor=0.1, patience=0, floors=(0.5, 0.001))
        scheduler = anneal(optimizer, plateau, batch_size=16, rate_factor=2.0)
        for _ in range(9):
            scheduler.step(1.0)
        assert rates_of(optimizer) == pytest.approx([0.1, 0.0002], **CLOSE)

    def test_a_warm_up_counts_samples_between_metrics(self):
        """step() counts, step(metric) tells."""
        optimizer = make_optimizer(0.1)
        warmed = with_warm_up(Constant(), length=4, unit=iterations(16), start=0.0)
        scheduler = anneal(optimizer, Plateau(factor=0.5, patience=0, curve=warmed), batch_size=16)
        found = rates_of(optimizer)
        for metric in (1.0, 1.0, None, None):
            scheduler.step()
            if metric is not None:
                scheduler.step(metric)
            found += rates_of(optimizer)
        assert found == pytest.approx([0.0, 0.025, 0.025, 0.0375, 0.05], rel=1e-12)

    def test_made_again_it_begins_at_the_same_base_rate(self):
        """Where a scheduler has noted the base rate, the rate that it set meanwhile is none."""
        optimizer = make_optimizer(0.1)
        for _ in range(3):
            anneal(optimizer, Plateau(curve=Constant(ratio=0.5)), batch_size=16)
        assert rates_of(optimizer) == pytest.approx([0.05], **CLOSE)

    @pytest.mark.parametrize("wrong", [{"metrics": 1.0, "samples": 3}, {"metrics": 1.0, "epoch": 3}])
    def test_a_step_is_one_thing(self, wrong):
        """A metric, or samples."""
        with pytest.raises(UsageError, match="metric or samples"):
            anneal(make_optimizer(), Plateau(), batch_size=16).step(**wrong)
