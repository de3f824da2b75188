"""How does a torch optimizer follow a schedule of samples seen?

`anneal` takes a curve, a plateau, or one of torch's own schedulers, and makes the scheduler that follows it.
"""

from collections.abc import Sequence
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from loadtune.errors import UsageError
from loadtune.schedule.curve import Curve, Plateau, Unit, epochs, iterations
from loadtune.schedule.schedulers import PlateauLR, SamplesLR, one_for_each
from loadtune.schedule.torch_schedulers import count_steps, read_curves, read_plateau


def anneal(
    optimizer: Optimizer,
    schedule: Curve | Sequence[Curve] | Plateau | LRScheduler,
    *,
    batch_size: int,
    samples_per_epoch: int | None = None,
    stepped: Literal["iteration", "epoch"] | None = None,
    accumulation_steps: int = 1,
    world_size: int = 1,
    samples_seen: int | None = None,
    rate_factor: float = 1.0,
) -> SamplesLR | PlateauLR:
    """Return a torch scheduler that follows a schedule in samples seen. Step it after every optimizer step.

    Lightning does so with `{"scheduler": scheduler, "interval": "step"}`: its default is once an epoch. Transformers'
    Trainer does so by itself. Both tell a plateau its metric and nothing else: see `PlateauLR`.

    Args:
        optimizer: Its parameter groups keep their own base rates (`initial_lr`, else `lr`).
        schedule: A curve, one curve for each parameter group, a `Plateau`, or one of torch's own schedulers of this
            optimizer: it is read, goes on where it stands, and must not be stepped any more.
        batch_size: Samples of one batch of one rank, as DataLoader has it.
        samples_per_epoch: Samples that an epoch yields over all ranks (with drop_last, without those dropped). With it
            `step()` knows that the last step of an epoch is short. No step may then reach into the next epoch.
        stepped: For one of torch's schedulers: whether it was stepped each "iteration" of this batch or each "epoch".
        accumulation_steps: Batches to one optimizer step.
        world_size: Ranks that train together. 1 where the framework steps the scheduler once for each rank, as
            Accelerate does with a scheduler it prepared; leave out `samples_per_epoch` then: it makes every step whole.
        samples_seen: Where in the schedule to begin; None: at 0, or where torch's scheduler stands.
        rate_factor: f(kappa) of a batch size other than that of the base rates.

    Raises:
        UsageError: A number is not positive, the schedule does not fit the optimizer or cannot be read, or `stepped` is
            missing or has no meaning.

    Example:
        >>> import torch
        >>> from loadtune.schedule.curve import Polynomial, epochs
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.028)
        >>> poly = Polynomial(total=50, unit=epochs(samples=1464))
        >>> scheduler = anneal(optimizer, poly, batch_size=64, samples_per_epoch=1464)
        >>> for _ in range(23):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> scheduler.samples_seen
        1464
    """
    counting = {
        "batch_size": batch_size,
        "accumulation_steps": accumulation_steps,
        "world_size": world_size,
        "samples_per_epoch": samples_per_epoch,
        "samples_seen": samples_seen or 0,
        "rate_factor": rate_factor,
    }
    if isinstance(schedule, LRScheduler):
        if schedule.optimizer is not optimizer:
            raise UsageError("the scheduler belongs to another optimizer", "give the optimizer that it was made with")
        if isinstance(schedule, ReduceLROnPlateau):
            return _replace_plateau(schedule, counting)
        unit = _choose_unit(stepped, batch_size * accumulation_steps * world_size, samples_per_epoch)
        if samples_seen is None:
            counting["samples_seen"] = count_steps(schedule) * unit.samples
        schedule = read_curves(schedule, unit)
    elif stepped is not None:
        raise UsageError(f"stepped={stepped!r} is for torch's schedulers", "leave it out: a curve has its own unit")
    if isinstance(schedule, Plateau):
        return PlateauLR(optimizer, schedule, **counting)
    curves = schedule if isinstance(schedule, Sequence) else [schedule]
    return SamplesLR(optimizer, one_for_each(curves, optimizer, "curves"), **counting)


def _replace_plateau(scheduler: ReduceLROnPlateau, counting: dict[str, Any]) -> PlateauLR:
    """Go on where torch's scheduler stands; PlateauLR sets the rates, so they are noted first."""
    reached = [float(group["lr"]) for group in scheduler.optimizer.param_groups]
    made = PlateauLR(scheduler.optimizer, read_plateau(scheduler), **counting)
    made.take_over(scheduler, reached)
    return made


def _choose_unit(stepped: str | None, samples_per_step: int, samples_per_epoch: int | None) -> Unit:
    """Return the unit in which one of torch's schedulers was stepped."""
    if stepped == "iteration" and samples_per_step > 0:
        return iterations(samples_per_step)
    if stepped == "epoch" and samples_per_epoch is not None and samples_per_epoch > 0:
        return epochs(samples_per_epoch, is_stepped=True)
    if stepped == "epoch":
        raise UsageError("an epoch of how many samples?", "give samples_per_epoch")
    raise UsageError(
        f"stepped={stepped!r} does not say how often torch's scheduler was stepped",
        'give stepped="iteration" or stepped="epoch"',
    )
