"""Do the curves that are read from torch's schedulers give torch's own rates?

At kappa = 1 every rate is compared with what torch's scheduler set at that step, over as many steps as DeepLab trains.
"""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from loadtune.errors import UsageError
from loadtune.schedule.anneal import anneal
from loadtune.schedule.curve import Constant, Cosine, Curve, Plateau, epochs, iterations
from loadtune.schedule.torch_schedulers import read_curves

LONG = 30_000
"""DeepLab's training on VOC."""
BASES = (0.1, 0.013)
CLOSE = {"rel": 1e-12, "abs": 0.0}


def make_optimizer(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or BASES]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def rates_of(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def chain_after_warm_up(optimizer: Any, later: Callable[[Any], Any], steps: int = 50) -> SequentialLR:
    warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=steps)
    return SequentialLR(optimizer, [warm_up, later(optimizer)], milestones=[steps])


def one_cycle(optimizer: Any, **changes: Any) -> OneCycleLR:
    given: dict[str, Any] = {"max_lr": [0.4, 0.05], "total_steps": 1000, "cycle_momentum": False} | changes
    return OneCycleLR(optimizer, **given)


MAKERS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "step": (lambda it: StepLR(it, 300, gamma=0.5), 2000),
    "step long": (lambda it: StepLR(it, 10_000), LONG),
    "multistep": (lambda it: MultiStepLR(it, [30, 60, 60, 80], gamma=0.3), 100),
    "exponential": (lambda it: ExponentialLR(it, 0.9997), LONG),
    "poly": (lambda it: PolynomialLR(it, LONG, power=0.9), LONG + 5),
    "cosine": (lambda it: CosineAnnealingLR(it, LONG), LONG),
    "cosine with a floor": (lambda it: CosineAnnealingLR(it, LONG, eta_min=1e-4), LONG),
    "cosine above a group's rate": (lambda it: CosineAnnealingLR(it, 100, eta_min=0.05), 100),
    "linear": (lambda it: LinearLR(it, 0.1, total_iters=500), 600),
    "linear down": (lambda it: LinearLR(it, 1.0, 0.2, total_iters=500), 600),
    "constant": (lambda it: ConstantLR(it, 0.25, total_iters=40), 80),
    "one cycle": (one_cycle, 999),
    "one cycle, three phases": (lambda it: one_cycle(it, three_phase=True), 999),
    "one cycle, linear": (lambda it: one_cycle(it, anneal_strategy="linear", final_div_factor=10), 999),
    "one cycle without rise": (lambda it: one_cycle(it, pct_start=0.0), 999),
    "warm-up, then poly": (lambda it: chain_after_warm_up(it, lambda o: PolynomialLR(o, 400, power=0.9)), 500),
    "warm-up, then cosine": (lambda it: chain_after_warm_up(it, lambda o: CosineAnnealingLR(o, 400)), 450),
    "warm-up, then step": (lambda it: chain_after_warm_up(it, lambda o: StepLR(o, 100)), 450),
    "warm-up by exponential": (
        lambda it: ChainedScheduler([LinearLR(it, 0.1, total_iters=50), ExponentialLR(it, 0.99)], it),
        500,
    ),
    "constant by cosine": (
        lambda it: ChainedScheduler([ConstantLR(it, 0.1, total_iters=50), CosineAnnealingLR(it, 500)], it),
        500,
    ),
}


def assert_same_rates(scheduler: Any, ours: Any, steps: int, samples: int | None = None) -> None:
    """Step both and compare them at every step; the first difference says where it is."""
    scheduler.optimizer.step()
    ours.optimizer.step()
    for index in range(steps):
        for mine, theirs in zip(rates_of(ours.optimizer), rates_of(scheduler.optimizer), strict=True):
            assert abs(mine - theirs) <= 1e-12 * theirs, (index, mine, theirs)
        scheduler.step()
        ours.step(samples=samples)


@pytest.mark.parametrize("name", MAKERS)
def test_stepped_each_iteration(name):
    """To 1e-12 at every step, for two groups with rates of their own, with a batch that is no power of 2."""
    make, steps = MAKERS[name]
    scheduler = make(make_optimizer())
    twin = make(make_optimizer())
    ours = anneal(twin.optimizer, twin, batch_size=12, stepped="iteration")
    assert_same_rates(scheduler, ours, steps)


@pytest.mark.parametrize("name", ["step", "multistep", "exponential", "poly", "cosine", "linear", "warm-up, then poly"])
def test_stepped_each_epoch(name):
    """The rate is held within an epoch, whose last batch is short; whatever the batch, epochs are the same."""
    make, _ = MAKERS[name]
    scheduler = make(make_optimizer())
    twin = make(make_optimizer())
    ours = anneal(twin.optimizer, twin, batch_size=12, samples_per_epoch=40, stepped="epoch")
    ours.change_batch_size(16, rate_factor=1.0)
    scheduler.optimizer.step()
    ours.optimizer.step()
    for _ in range(70):
        for _ in range(3):  # 40 samples are two batches of 16 and one of 8
            assert rates_of(ours.optimizer) == pytest.approx(rates_of(scheduler.optimizer), **CLOSE)
            ours.step()
        scheduler.step()
    assert ours.samples_seen == 70 * 40


@pytest.mark.parametrize("name", ["step", "exponential", "poly", "cosine", "one cycle", "warm-up, then poly"])
@pytest.mark.parametrize("stepped_before", [1, 30, 70])
def test_goes_on_where_torchs_scheduler_stands(name, stepped_before):
    """A scheduler that is handed over in mid-training is not begun anew."""
    make, _ = MAKERS[name]
    scheduler, twin = make(make_optimizer()), make(make_optimizer())
    scheduler.optimizer.step()
    twin.optimizer.step()
    for _ in range(stepped_before):
        scheduler.step()
        twin.step()
    ours = anneal(twin.optimizer, twin, batch_size=12, stepped="iteration")
    assert ours.samples_seen == 12 * stepped_before
    assert_same_rates(scheduler, ours, 100)


@pytest.mark.parametrize("name", MAKERS)
def test_comes_back_rescaled(name):
    """With four times the batch and f = 4 the rate is four times torch's own at equal samples."""
    make, _ = MAKERS[name]
    scheduler, twin = make(make_optimizer()), make(make_optimizer())
    ours = anneal(twin.optimizer, twin, batch_size=12, stepped="iteration")
    ours.change_batch_size(48, rate_factor=4.0)
    scheduler.optimizer.step()
    ours.optimizer.step()
    for _ in range(20):
        scaled = [rate / 4 for rate in rates_of(ours.optimizer)]
        assert scaled == pytest.approx(rates_of(scheduler.optimizer), **CLOSE)
        ours.step()
        for _ in range(4):
            scheduler.step()


def test_cosine_rises_again_as_torchs_does():
    """Past T_max torch's recursion has lost digits; its closed form is the truth that it approximates."""
    optimizer = make_optimizer()
    scheduler = CosineAnnealingLR(optimizer, 100, eta_min=0.001)
    curves = read_curves(scheduler, iterations(12))
    for step in range(0, 350, 7):
        scheduler.last_epoch = step
        expected = scheduler._get_closed_form_lr()
        found = [base * curve.ratio_at(12 * step) for base, curve in zip(BASES, curves, strict=True)]
        assert found == pytest.approx(expected, **CLOSE)


def test_groups_with_other_rates_have_other_floors():
    """eta_min is absolute, a curve relative."""
    curves = read_curves(CosineAnnealingLR(make_optimizer(), 10, eta_min=0.0013), epochs(40))
    unit = epochs(40)
    floors = (0.0013 / 0.1, 0.0013 / 0.013)
    assert curves == tuple(Cosine(total=10, floor=floor, is_periodic=True, unit=unit) for floor in floors)


@pytest.mark.parametrize("name", MAKERS)
def test_what_was_read_can_be_stored(name):
    """As JSON, and it is the same curve again."""
    make, _ = MAKERS[name]
    curves = read_curves(make(make_optimizer()), iterations(12))
    assert msgspec.json.decode(msgspec.json.encode(curves), type=tuple[Curve, ...]) == curves


def test_one_cycle_says_what_becomes_of_the_momentum():
    """The curve has no momentum: where OneCycleLR has left it, it stays."""
    optimizer = make_optimizer()
    scheduler = one_cycle(optimizer, cycle_momentum=True)
    with pytest.warns(UserWarning, match="momentum stays where it is"):
        ours = anneal(optimizer, scheduler, batch_size=12, stepped="iteration")
    for _ in range(5):
        optimizer.step()
        ours.step()
    assert [group["momentum"] for group in optimizer.param_groups] == [0.95, 0.95]


def test_one_cycle_stays_at_its_end():
    """torch refuses to go on; a rescaled run may have a part of a step left."""
    optimizer = make_optimizer()
    ours = anneal(optimizer, one_cycle(optimizer), batch_size=12, stepped="iteration", samples_seen=12 * 2000)
    assert rates_of(optimizer) == pytest.approx([0.4 / 25 / 1e4, 0.05 / 25 / 1e4], **CLOSE)
    assert ours.samples_seen == 24_000


class MyStepLR(StepLR):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda it: LambdaLR(it, lambda step: 1 / (1 + step)), "calls a function"),
        (lambda it: lr_scheduler.MultiplicativeLR(it, lambda step: 0.9), "calls a function"),
        (lambda it: lr_scheduler.CosineAnnealingWarmRestarts(it, 10), "none of the classes"),
        (lambda it: MyStepLR(it, 10), "none of the classes"),
        (lambda it: ExponentialLR(it, 1.1), "grows without end"),
        (lambda it: ExponentialLR(it, 0.0), "not positive"),
        (lambda it: SequentialLR(it, [LambdaLR(it, lambda _: 1.0), StepLR(it, 3)], [5]), "calls a function"),
        (lambda it: ChainedScheduler([CosineAnnealingLR(it, 10, eta_min=0.01), StepLR(it, 3)]), "does not multiply"),
        (lambda it: ChainedScheduler([LambdaLR(it, lambda _: 1.0)]), "does not multiply"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused_with_the_reason(make, reason):
    """Never a guess."""
    optimizer = make_optimizer()
    scheduler = make(optimizer)
    before = rates_of(optimizer)
    with pytest.raises(UsageError) as raised:
        anneal(optimizer, scheduler, batch_size=12, stepped="iteration")
    assert reason in raised.value.what
    assert "curve" in raised.value.hint
    assert rates_of(optimizer) == before


def test_a_group_without_a_rate_has_no_share_of_it():
    """eta_min / 0 is nothing."""
    optimizer = make_optimizer(0.1, 0.0)
    with pytest.raises(UsageError, match="division"):
        anneal(optimizer, CosineAnnealingLR(optimizer, 10, eta_min=0.1), batch_size=12, stepped="iteration")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "does not say how often"),
        ({"stepped": "batch"}, "does not say how often"),
        ({"stepped": "epoch"}, "how many samples"),
    ],
)
def test_how_often_it_was_stepped_must_be_said(changes, told):
    """Nothing in torch's scheduler shows it."""
    optimizer = make_optimizer()
    with pytest.raises(UsageError, match=told):
        anneal(optimizer, StepLR(optimizer, 3), batch_size=12, **changes)


def test_the_scheduler_of_another_optimizer_is_refused():
    """Its base rates are not this optimizer's."""
    with pytest.raises(UsageError, match="another optimizer"):
        anneal(make_optimizer(), StepLR(make_optimizer(), 3), batch_size=12, stepped="epoch", samples_per_epoch=40)


@settings(max_examples=60)
@given(
    st.lists(st.floats(-5, 5), max_size=30),
    st.lists(st.floats(-5, 5), max_size=30),
    st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["min", "max"]),
            "factor": st.floats(0.1, 0.9),
            "patience": st.integers(0, 3),
            "threshold": st.sampled_from([0.0, 1e-4, 0.3]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0.0, 0.002, [0.01, 0.0001]]),
            "eps": st.sampled_from([1e-8, 1e-3]),
        }
    ),
)
def test_plateau_reduces_as_torchs_does(before, after, options):
    """For any metrics, and handed over at any of them."""
    scheduler, twin = (ReduceLROnPlateau(make_optimizer(), **options) for _ in range(2))
    for metric in before:
        scheduler.step(metric)
        twin.step(metric)
    ours = anneal(twin.optimizer, twin, batch_size=12)
    for metric in after:
        assert rates_of(ours.optimizer) == pytest.approx(rates_of(scheduler.optimizer), **CLOSE)
        scheduler.step(metric)
        ours.step(metric)
    assert rates_of(ours.optimizer) == pytest.approx(rates_of(scheduler.optimizer), **CLOSE)
    assert (ours.num_bad_epochs, ours.cooldown_counter) == (scheduler.num_bad_epochs, scheduler.cooldown_counter)


def test_plateau_leaves_out_what_torchs_leaves_out():
    """`eps` is absolute: 0.025 to 0.0125 is less than 0.02, and for the second group every change is."""
    scheduler, twin = (ReduceLROnPlateau(make_optimizer(), factor=0.5, patience=0, eps=0.02) for _ in range(2))
    ours = anneal(twin.optimizer, twin, batch_size=12)
    for _ in range(6):
        scheduler.step(1.0)
        ours.step(1.0)
    assert rates_of(scheduler.optimizer) == [0.025, 0.013]
    assert rates_of(ours.optimizer) == pytest.approx([0.025, 0.013], **CLOSE)


def test_our_own_plateau_is_not_read_as_torchs():
    """A subclass may do something else, and ours does."""
    optimizer = make_optimizer()
    with pytest.raises(UsageError, match="not torch's"):
        anneal(optimizer, anneal(optimizer, Plateau(), batch_size=12), batch_size=12)


def test_long_runs_of_pure_curves_do_not_drift():
    """A closed form has no sum of rounding errors: after 30 000 steps it is as exact as after one."""
    optimizer = make_optimizer(0.1)
    ours = anneal(optimizer, ExponentialLR(optimizer, 0.9997), batch_size=12, stepped="iteration")
    ours.optimizer.step()
    for _ in range(LONG):
        ours.step()
    assert rates_of(optimizer) == pytest.approx([0.1 * math.pow(0.9997, LONG)], **CLOSE)
    assert anneal(make_optimizer(0.1), Constant(), batch_size=1).get_last_lr() == [0.1]
