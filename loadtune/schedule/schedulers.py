"""What does a torch scheduler do that counts samples instead of steps?

It is one in every way: it is stepped, saved and loaded as torch's own are, under Lightning and Transformers too. As it
counts samples, its rate is right after a change of the batch in mid-training, after the short last batch of an epoch,
and wherever in an epoch a run was resumed.

Its rate is a closed form: it sets the rate and does not multiply the one that it finds. So it works as a part of
SequentialLR, and not of ChainedScheduler; the product of two curves is `loadtune.schedule.curve.Product`.
"""

import operator
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from loadtune.errors import UsageError
from loadtune.schedule.curve import Constant, Curve, Plateau

T = TypeVar("T")


class SampleCounter(LRScheduler):
    """What both schedulers share: the samples seen, and the rates that follow from them.

    Attributes:
        samples_seen: Samples behind the optimizer steps so far, over all ranks.
        rate_factor: What the base rates are multiplied by; changes of the batch are in it.
        batch_size: Samples of one batch of one rank.
        accumulation_steps: Batches of one rank to an optimizer step.
        world_size: Ranks that train together.
        samples_per_epoch: Samples of an epoch over all ranks; None: no step is known to be short.
        curves: One for each parameter group.
    """

    def _begin(
        self,
        curves: Sequence[Curve],
        *,
        batch_size: int,
        accumulation_steps: int,
        world_size: int,
        samples_per_epoch: int | None,
        samples_seen: int,
        rate_factor: float,
    ) -> None:
        self.curves = tuple(curves)
        self.batch_size, self.accumulation_steps, self.world_size = batch_size, accumulation_steps, world_size
        self.samples_per_epoch, self.samples_seen, self.rate_factor = samples_per_epoch, samples_seen, rate_factor
        self._has_warned = False
        self._check()

    def _check(self) -> None:
        self.batch_size = _read_count("batch_size", self.batch_size)
        self.accumulation_steps = _read_count("accumulation_steps", self.accumulation_steps)
        self.world_size = _read_count("world_size", self.world_size)
        self.samples_seen = _read_count("samples_seen", self.samples_seen, least=0)
        if self.samples_per_epoch is not None:
            self.samples_per_epoch = _read_count("samples_per_epoch", self.samples_per_epoch)
        self.rate_factor = float(self.rate_factor)
        if not 0 < self.rate_factor < float("inf"):
            raise UsageError(f"rate_factor={self.rate_factor} is no factor", "give a positive number")

    @property
    def samples_per_step(self) -> int:
        """Samples behind a whole optimizer step: batch_size * accumulation_steps * world_size."""
        return self.batch_size * self.accumulation_steps * self.world_size

    def change_batch_size(
        self,
        batch_size: int,
        *,
        rate_factor: float,
        accumulation_steps: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Go on with another batch: later steps count it, and the rates change by the factor at once.

        Args:
            batch_size: Samples of one batch of one rank from now on.
            rate_factor: f(kappa), such as `rescale_learning_rate(...).factor`; 1 leaves the rates alone.
            accumulation_steps: Batches to an optimizer step from now on; None: as before.
            world_size: Ranks from now on; None: as before.

        Raises:
            UsageError: A number is not positive; nothing is changed then.
        """
        before = dict(vars(self))
        self.batch_size = batch_size
        if accumulation_steps is not None:
            self.accumulation_steps = accumulation_steps
        if world_size is not None:
            self.world_size = world_size
        self.rate_factor *= rate_factor
        try:
            self._check()
        except UsageError:
            vars(self).update(before)
            raise
        self._write_rates()

    def _count(self, samples: int | None) -> None:
        """Add the samples of one optimizer step."""
        if samples is None:
            added = self.samples_per_step
            if self.samples_per_epoch is not None:
                added = min(added, self.samples_per_epoch - self.samples_seen % self.samples_per_epoch)
        else:
            added = operator.index(samples) * self.world_size
        if added < 1:
            raise UsageError(f"step(samples={samples}) adds no samples", "give the samples behind this optimizer step")
        groups = len(self.optimizer.param_groups)
        if groups != len(self.base_lrs):
            raise UsageError(
                f"the optimizer has {groups} parameter groups, the scheduler was made for {len(self.base_lrs)}",
                "make the scheduler anew after add_param_group(), with samples_seen=... to go on",
            )
        self._warn_of_another_hand()
        self.samples_seen += added

    def _warn_of_another_hand(self) -> None:
        """Warn once if somebody else set a rate since the last step: it is about to be overwritten."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        # A rate that is a tensor is not compared: on a GPU that would make every step wait for the device.
        is_other = any(rate != last for rate, last in zip(rates, self._last_lr, strict=True) if isinstance(rate, float))
        if is_other and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "Something else than this scheduler changed the learning rate, and the change is lost: the rate is set "
                "from the samples seen. Multiply curves (loadtune.schedule.curve.Product) instead of chaining "
                "schedulers, and change_batch_size() scales the rate.",
                UserWarning,
                stacklevel=4,
            )

    def _compute_ratios(self) -> list[float]:
        return [self.rate_factor * curve.ratio_at(self.samples_seen) for curve in self.curves]

    def get_lr(self) -> list[float | Tensor]:
        """Return the rate of each parameter group after the samples seen."""
        return [base * ratio for base, ratio in zip(self.base_lrs, self._compute_ratios(), strict=True)]

    def _write_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(float(rate))  # the optimizer's own tensor, which a captured graph may read
            else:
                group["lr"] = rate
        self._last_lr = _copy_each(self.optimizer, "lr")

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the optimizer, as plain values that `torch.load(weights_only=True)` accepts."""
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        return super().state_dict() | {
            "curves": [msgspec.to_builtins(curve) for curve in self.curves],
            "is_in_force": rates == [float(rate) for rate in self._last_lr],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the state was saved: samples seen, batch, factor and curves are restored, and the rates set.

        To go on with another batch than the saved run's, call `change_batch_size` after loading. The rates are not set
        where the saved scheduler waited for its turn in a SequentialLR.

        Raises:
            UsageError: The state is that of another number of parameter groups, or of another kind of scheduler.
        """
        groups = len(self.optimizer.param_groups)
        is_own_kind = "samples_seen" in state_dict and ("reductions" in state_dict) == ("reductions" in vars(self))
        if not is_own_kind or len(state_dict["curves"]) != groups:
            raise UsageError(
                f"the state is not one of a {type(self).__name__} for {groups} parameter groups",
                "load the state of the same scheduler, with the optimizer's parameter groups as they were",
            )
        curves = tuple(msgspec.convert(curve, Curve) for curve in state_dict["curves"])
        held = {name: value for name, value in state_dict.items() if name != "is_in_force"}
        super().load_state_dict(held | {"curves": curves})
        if state_dict.get("is_in_force", True):
            self._write_rates()


class SamplesLR(SampleCounter):
    """A torch scheduler whose rate is base rate * rate_factor * curve(samples seen). `anneal` makes it.

    The base rate of a parameter group is its `initial_lr`, or its `lr` where no scheduler has set one yet, as for
    torch's own schedulers. Attributes are those of `SampleCounter`; `last_epoch` counts steps.
    """

    def __init__(self, optimizer: Optimizer, curves: Sequence[Curve], **counting: Any) -> None:
        self._begin(curves, **counting)
        super().__init__(optimizer)

    def step(self, epoch: int | None = None, *, samples: int | None = None) -> None:
        """Count one optimizer step and set the rates for the next; call it after `optimizer.step()`.

        Args:
            epoch: Must not be given. It is torch's deprecated argument, kept so that a caller who passes a number is
                told, instead of being taken to mean samples.
            samples: Samples behind this optimizer step on this rank, all accumulated batches together, where they are
                not batch_size * accumulation_steps. None: as many as these, at most up to the end of the epoch.

        Raises:
            UsageError: An epoch was given, or samples below 1.
        """
        if epoch is not None:
            raise UsageError(
                f"step({epoch}): this scheduler counts samples, not epochs or steps",
                "call step(), or step(samples=...) where a batch is shorter than batch_size",
            )
        # torch's constructors, SequentialLR's too, make a first step before anything was trained.
        if self._step_count > 0:
            self._count(samples)
        super().step()


class PlateauLR(SampleCounter, ReduceLROnPlateau):
    """torch's ReduceLROnPlateau on a curve: base rate * rate_factor * curve(samples seen) * reductions.

    What counts as an improvement, patience and cooldown are torch's own code. `step(metric)` tells a metric, as with
    torch's class; `step()` counts one optimizer step, which only a curve needs, such as a warm-up. Lightning's and
    Transformers' loops tell metrics only, so there a training with a warm-up calls `step()` itself after each optimizer
    step; a warning says so where nobody did.
    """

    def __init__(self, optimizer: Optimizer, plateau: Plateau, **counting: Any) -> None:
        super().__init__(
            optimizer,
            mode=plateau.mode,
            factor=plateau.factor,
            patience=plateau.patience,
            threshold=plateau.threshold,
            threshold_mode=plateau.threshold_mode,
            cooldown=plateau.cooldown,
        )
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", _copy(group["lr"]))
        self.base_lrs = _copy_each(optimizer, "initial_lr")
        self.floors = list(one_for_each(plateau.floors, optimizer, "floors"))
        self.least_changes = list(one_for_each(plateau.least_changes, optimizer, "least_changes"))
        self.reductions = [1.0] * len(self.base_lrs)
        self._begin(one_for_each([plateau.curve], optimizer, "curves"), **counting)
        self._write_rates()

    def step(  # type: ignore[override]  # torch's own plateau takes a metric first, too
        self, metrics: Any = None, epoch: None = None, *, samples: int | None = None
    ) -> None:
        """Tell a metric, or count one optimizer step.

        Args:
            metrics: The metric; None: count samples instead.
            epoch: torch's deprecated argument; must not be given.
            samples: As for `SamplesLR.step`.

        Raises:
            UsageError: Both a metric and samples were given, or an epoch.
        """
        if epoch is not None or (metrics is not None and samples is not None):
            raise UsageError(
                "step() takes a metric or samples, and no epoch", "call step(metric), and step() after optimizer.step()"
            )
        if metrics is not None:
            self._warn_of_standing_still()
            super().step(metrics)
        else:
            self._count(samples)
            self._write_rates()

    def _warn_of_standing_still(self) -> None:
        """Warn once if a metric arrives and no optimizer step was counted: the rate stays where its curve begins."""
        moves = any(not isinstance(curve, Constant) for curve in self.curves)
        if moves and self.samples_seen == 0 and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "The curve of this plateau, such as a warm-up, stands still: no optimizer step was counted. Call "
                "step() after each optimizer.step(), besides step(metric).",
                UserWarning,
                stacklevel=3,
            )

    def take_over(self, scheduler: ReduceLROnPlateau, reached: Sequence[float]) -> None:
        """Go on with the state of torch's own scheduler: what it counted, and the rates that it had reached."""
        self.best, self.last_epoch = scheduler.best, scheduler.last_epoch
        self.num_bad_epochs, self.cooldown_counter = scheduler.num_bad_epochs, scheduler.cooldown_counter
        self.reductions = [rate / float(base) for rate, base in zip(reached, self.base_lrs, strict=True)]
        self._write_rates()

    def _reduce_lr(self, epoch: int) -> None:
        """Reduce as torch does, in shares of the base rate."""
        limits = zip(self.reductions, self.floors, self.least_changes, strict=True)
        self.reductions = [
            lower if old - (lower := max(old * self.factor, floor)) > least else old for old, floor, least in limits
        ]
        self._write_rates()

    def _compute_ratios(self) -> list[float]:
        return [ratio * kept for ratio, kept in zip(super()._compute_ratios(), self.reductions, strict=True)]


def one_for_each(values: Sequence[T], optimizer: Optimizer, name: str) -> Sequence[T]:
    """Return one value for each parameter group; a single one is for all."""
    groups = len(optimizer.param_groups)
    if len(values) not in {1, groups}:
        raise UsageError(f"{len(values)} {name} for {groups} parameter groups", "give one for all, or one for each")
    return list(values) * groups if len(values) == 1 else values


def _read_count(name: str, value: Any, *, least: int = 1) -> int:
    """Return a whole number as a plain int: numpy's would not get through `torch.load(weights_only=True)`."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise UsageError(f"{name}={value} counts nothing", f"give {name} a whole number of at least {least}")
    return count


def _copy(rate: Any) -> Any:
    return rate.clone() if isinstance(rate, Tensor) else rate


def _copy_each(optimizer: Optimizer, name: str) -> list[Any]:
    """Return a value of each parameter group, a tensor as a copy, so that nobody changes it from outside."""
    return [_copy(group[name]) for group in optimizer.param_groups]
