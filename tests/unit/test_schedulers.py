"""Is the scheduler one of torch's in every way, and may frameworks call it as they do?

Lightning, Transformers and Accelerate are not installed here: stand-ins call a scheduler as their loops do.
"""

import math
from typing import Any, Protocol, runtime_checkable

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
)

from loadtune.errors import UsageError
from loadtune.schedule.anneal import anneal
from loadtune.schedule.curve import (
    Constant,
    Cosine,
    Exponential,
    Plateau,
    Polynomial,
    Product,
    Sequential,
    StepDecay,
    epochs,
    iterations,
    with_warm_up,
)
from tests.training import make_optimizer, rates_of, save_and_load, step, step_thrice

POLY = Polynomial(total=50, unit=epochs(1464))
CLOSE = {"rel": 1e-12, "abs": 0.0}


class TestTorchHabits:
    """What users of torch's own schedulers are used to."""

    def test_it_is_a_torch_scheduler(self):
        """Frameworks ask for the class."""
        assert isinstance(anneal(make_optimizer(), POLY, batch_size=16), LRScheduler)
        assert isinstance(anneal(make_optimizer(), Plateau(), batch_size=16), ReduceLROnPlateau)

    def test_the_wrong_order_of_steps_is_warned_of(self):
        """The same warning as torch's own schedulers give, once."""
        scheduler = anneal(make_optimizer(), POLY, batch_size=16)
        with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
            scheduler.step()
        step(scheduler)

    def test_a_replaced_optimizer_step_is_warned_of(self):
        """As by torch's own schedulers."""
        optimizer = make_optimizer()
        scheduler = anneal(optimizer, POLY, batch_size=16)
        optimizer.step = lambda: None
        with pytest.warns(UserWarning, match="overridden after learning rate scheduler"):
            step(scheduler)

    def test_an_epoch_number_is_not_taken_for_samples(self):
        """Old loops call step(epoch); what was meant cannot be known."""
        scheduler = anneal(make_optimizer(), POLY, batch_size=16)
        scheduler.optimizer.step()
        with pytest.raises(UsageError, match="counts samples"):
            scheduler.step(3)
        assert scheduler.samples_seen == 0

    def test_after_a_warm_up_in_sequential_lr(self):
        """torch's own SequentialLR starts it at its milestone, at 0 samples."""
        optimizer, twin = make_optimizer(0.1), make_optimizer(0.1)
        curve = Exponential(k=0.1, unit=iterations(16))
        warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=5)
        chain = SequentialLR(optimizer, [warm_up, anneal(optimizer, curve, batch_size=16)], milestones=[5])
        own = LinearLR(twin, start_factor=0.1, total_iters=5)
        torch_chain = SequentialLR(twin, [own, ExponentialLR(twin, math.exp(-0.1))], milestones=[5])
        for _ in range(20):
            assert rates_of(optimizer) == pytest.approx(rates_of(twin), rel=1e-12)
            step(chain)
            step(torch_chain)

    def test_first_in_sequential_lr(self):
        """torch takes its first step back and makes it again."""
        optimizer = make_optimizer(0.1)
        curve = Exponential(k=0.1, unit=iterations(16))
        first = anneal(optimizer, curve, batch_size=16)
        chain = SequentialLR(optimizer, [first, ExponentialLR(optimizer, 0.5)], milestones=[3])
        found = []
        for _ in range(6):
            found += rates_of(optimizer)
            step(chain)
        expected = [0.1, 0.1 * math.exp(-0.1), 0.1 * math.exp(-0.2), 0.1, 0.05, 0.025]
        assert found == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("steps", [2, 5, 8])
    def test_sequential_lr_is_saved_and_loaded_at_any_step(self, steps):
        """A part that waits for its turn must not set its rate when it is loaded."""

        def make() -> SequentialLR:
            optimizer = make_optimizer(0.1)
            warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=5)
            own = anneal(optimizer, Exponential(k=0.1, unit=iterations(16)), batch_size=16)
            return SequentialLR(optimizer, [warm_up, own], milestones=[5])

        chain, again = make(), make()
        for _ in range(steps):
            step(chain)
        again.optimizer.load_state_dict(save_and_load(chain.optimizer.state_dict()))
        again.load_state_dict(save_and_load(chain.state_dict()))
        for _ in range(6):
            assert rates_of(again.optimizer) == rates_of(chain.optimizer)
            step(chain)
            step(again)

    @pytest.mark.parametrize("is_first", [True, False])
    def test_in_a_chained_scheduler_it_warns_that_it_does_not_multiply(self, is_first):
        """Otherwise one of the two would be lost without a word."""
        optimizer = make_optimizer(0.1)
        parts = [anneal(optimizer, POLY, batch_size=16), ExponentialLR(optimizer, 0.5)]
        chain = ChainedScheduler(parts if is_first else parts[::-1], optimizer)
        with pytest.warns(UserWarning, match="change is lost"):
            step_thrice(chain)
        step(chain)

    def test_a_group_that_was_added_is_named(self):
        """torch's own schedulers fail too, in a zip."""
        scheduler = anneal(make_optimizer(), POLY, batch_size=16)
        scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1})
        with pytest.raises(UsageError, match="2 parameter groups"):
            step(scheduler)


@runtime_checkable
class LightningScheduler(Protocol):
    """What Lightning's configure_optimizers() checks (lightning.fabric.utilities.types.LRScheduler)."""

    optimizer: Any
    base_lrs: list[float]

    def step(self, epoch: int | None = None) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class TestFrameworks:
    """Stand-ins for the loops of frameworks that are not installed here."""

    @pytest.mark.parametrize("accumulate", [1, 4])
    def test_lightning_with_interval_step(self, accumulate):
        """step() after each optimizer step; accumulation ends with the epoch; step(metric) for a plateau."""
        optimizer = make_optimizer(0.1)
        schedule = StepDecay(every=2, gamma=0.5, unit=epochs(100))
        scheduler = anneal(optimizer, schedule, batch_size=8, samples_per_epoch=100, accumulation_steps=accumulate)
        plateau = anneal(make_optimizer(0.1), Plateau(factor=0.5, patience=0), batch_size=8)
        assert isinstance(scheduler, LightningScheduler)
        batches = math.ceil(100 / 8)
        for _ in range(4):
            for batch in range(batches):
                if (batch + 1) % accumulate == 0 or batch == batches - 1:
                    optimizer.step()
                    self.lightning_step(scheduler, None)
            plateau.optimizer.step()
            self.lightning_step(plateau, torch.tensor(1.0))
        assert scheduler.samples_seen == 400
        assert rates_of(optimizer) == pytest.approx([0.025], **CLOSE)
        assert rates_of(plateau.optimizer) == pytest.approx([0.1 * 0.5**3], **CLOSE)

    @staticmethod
    def lightning_step(scheduler: Any, metric: Any) -> None:
        """Call as LightningModule.lr_scheduler_step does."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    def test_transformers_trainer(self):
        """step() after each optimizer step, get_last_lr() for the log, scheduler.pt through weights_only."""
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        scheduler = anneal(optimizer, Cosine(total=3, unit=epochs(100)), batch_size=8, samples_per_epoch=100)
        logged = []
        for _ in range(26):
            optimizer.step()
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
            logged.append(scheduler.get_last_lr()[0])
        assert scheduler.samples_seen == 200
        assert logged[-1] == pytest.approx(0.1 * 0.25, rel=1e-12)
        resumed = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        again = anneal(resumed, Cosine(total=3, unit=epochs(100)), batch_size=8, samples_per_epoch=100)
        resumed.load_state_dict(save_and_load(optimizer.state_dict()))
        again.load_state_dict(save_and_load(scheduler.state_dict()))
        assert (again.samples_seen, again.get_last_lr()) == (200, scheduler.get_last_lr())

    def test_frameworks_tell_a_plateau_its_metric_alone(self):
        """Both ask isinstance(ReduceLROnPlateau), and skip step() then: a warm-up would stand still without a word."""
        warmed = with_warm_up(Constant(), length=2, unit=epochs(100), start=0.5)
        scheduler = anneal(make_optimizer(0.1), Plateau(curve=warmed), batch_size=10)
        assert isinstance(scheduler, ReduceLROnPlateau)
        with pytest.warns(UserWarning, match="stands still"):
            scheduler.step(1.0)
        scheduler.step(1.0)  # once is enough
        own = anneal(make_optimizer(0.1), Plateau(curve=warmed), batch_size=10)
        for _ in range(20):  # what the training does itself
            step(own)
        own.step(1.0)
        assert rates_of(own.optimizer) == pytest.approx([0.1])
        anneal(make_optimizer(0.1), Plateau(), batch_size=10).step(1.0)  # without a curve there is nothing to count

    def test_accelerate_steps_once_for_each_process(self):
        """A prepared scheduler is stepped num_processes times; so its world_size is 1, and every step is whole."""
        processes, scheduler = 4, anneal(make_optimizer(), POLY, batch_size=16)
        for _ in range(5):
            scheduler._step_count += 1  # while gradients accumulate, Accelerate only notes the call
            scheduler.optimizer.step()
            for _ in range(processes):
                scheduler.step()
        assert scheduler.samples_seen == 5 * processes * 16


def test_a_product_is_how_curves_are_chained():
    """And a sequence how they follow each other: the same numbers as torch's two composers give."""
    optimizer = make_optimizer(0.1)
    warm_up = with_warm_up(Exponential(k=0.1, unit=iterations(16)), length=5, unit=iterations(16), start=0.1)
    assert isinstance(warm_up, Product)
    later = Sequential(curves=(warm_up, Constant(ratio=0.5)), milestones=(8,), unit=iterations(16))
    scheduler = anneal(optimizer, later, batch_size=16)
    twin = make_optimizer(0.1)
    chain = ChainedScheduler([LinearLR(twin, start_factor=0.1, total_iters=5), ExponentialLR(twin, math.exp(-0.1))])
    for _ in range(8):
        assert rates_of(optimizer) == pytest.approx(rates_of(twin), rel=1e-12)
        step(scheduler)
        step(chain)
    assert rates_of(optimizer) == pytest.approx([0.05], **CLOSE)
