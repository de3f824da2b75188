"""What do learning rate, optimizer, averages and schedule become at another batch size?

Pure: it reads an optimizer by its attributes and never loads torch. The rules are in `rules`, where they end is in
`limits`. A schedule is a function of samples seen, relative to the base rate, so it stays as it is: the base rate
alone is multiplied.
"""

import importlib
import math
from typing import Any

import msgspec

from loadtune.errors import UsageError
from loadtune.records.report import LearningRate
from loadtune.records.settings import Optimizer
from loadtune.schedule import rules
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from loadtune.schedule.curve import Unit, iterations
from loadtune.schedule.limits import (
    warn_of_another_loss,
    warn_of_batch_norm,
    warn_of_decays,
    warn_of_noise_scale,
    warn_of_warm_up,
)
from loadtune.schedule.optimizers import Group, Held, read_optimizer
from loadtune.schedule.rescaled import Change, Rescaled, WarmUp

ADAM_BETA1 = 0.9
"""torch's default beta1 of Adam and AdamW; the square-root rule needs kappa * (1 - beta1) < 1."""

LINEAR_RULE = "linear for SGD (Goyal et al. 2017)"
SQUARE_ROOT_RULE = "square root for the Adam family (Malladi et al. 2022)"
NOISE_LIMITED_RULE = "kappa (B + Bn) / (kappa B + Bn) for SGD at noise scale Bn (McCandlish et al. 2018)"
UNCHANGED_RULE = "same effective batch size: nothing to rescale"


def rescale(
    optimizer: Any,
    base_batch_size: int,
    batch_size: int,
    *,
    base_accumulation_steps: int = 1,
    accumulation_steps: int = 1,
    base_world_size: int = 1,
    world_size: int = 1,
    schedule: Any = None,
    schedule_unit: Unit | None = None,
    ema_decay: float | None = None,
    batch_norm_momentum: float | None = None,
    sample_count: int | None = None,
    epochs: int | None = None,
    noise_scale: NoiseScaleEstimate | float | None = None,
    keep_momentum_memory: bool = False,
    **hyperparameters: Any,
) -> Rescaled:
    """Return what all that hangs on the batch size becomes at another one.

    Args:
        optimizer: A torch optimizer as it was tuned, or the name of one ("sgd", "adam", "adamw", "radam", "rmsprop")
            with its `hyperparameters`. Nothing of it is changed; `Rescaled.apply` does that.
        base_batch_size: Samples of one micro-batch on one GPU, where the rate was tuned.
        batch_size: The same, now.
        base_accumulation_steps: Micro-batches behind one optimizer step, where the rate was tuned.
        accumulation_steps: The same, now.
        base_world_size: Processes whose gradients are averaged, where the rate was tuned.
        world_size: The same, now.
        schedule: How the rate changes as samples are seen, as a record of `loadtune.schedule.curve` or one of torch's
            own schedulers, which becomes such a record (a tuple of them where the groups differ). It stays as it is.
        schedule_unit: What a scheduler of torch's counts: `epochs(samples)`; None: optimizer steps.
        ema_decay: Of an average of the model's weights that is updated at every step.
        batch_norm_momentum: torch's `momentum` of BatchNorm layers, the weight of the new batch (0.1 by default). Give
            it where the network has such layers: what another micro-batch does to them is said then.
        sample_count: Samples of one epoch: how long to warm up is told in samples with it.
        epochs: Of the run: the warm-up is kept to a tenth of it.
        noise_scale: The gradient noise scale in samples, or what `NoiseScale.estimate` returned. With it SGD's rate
            grows by kappa (B + Bn) / (kappa B + Bn) instead of kappa, unless it is a lower bound only.
        keep_momentum_memory: Let SGD's momentum remember as many samples as before instead of as many steps.
        hyperparameters: `lr` and others of an optimizer given by name; what is missing is torch's default.

    Raises:
        UsageError: There is no rule for the optimizer, or a figure is out of its range.

    Example:
        >>> rescale("sgd", 16, 64, lr=0.007, momentum=0.9).groups[0]["lr"]
        0.028
    """
    held = optimizer if isinstance(optimizer, Held) else read_optimizer(optimizer, hyperparameters)
    base = _effective(base_batch_size, base_accumulation_steps, base_world_size)
    new = _effective(batch_size, accumulation_steps, world_size)
    _check_averages(ema_decay, batch_norm_momentum, noise_scale)
    kappa = new / base
    groups, changes, factor = _rescale_groups(held, kappa, base, noise_scale, keep_momentum_memory)
    # BatchNorm updates its statistics at every forward pass, so its ratio leaves accumulation out.
    forward_kappa = batch_size * world_size / (base_batch_size * base_world_size)
    average, momentum = ema_decay, batch_norm_momentum
    if ema_decay is not None:
        average = rules.rescale_average(ema_decay, kappa)
        changes += _note("ema_decay", None, ema_decay, average, rules.EMA)
    if batch_norm_momentum is not None:
        momentum = rules.rescale_batch_norm(batch_norm_momentum, forward_kappa)
        changes += _note("batch_norm_momentum", None, batch_norm_momentum, momentum, rules.BATCH_NORM)
    warm_up = _warm_up(kappa, factor, new, sample_count, epochs)
    return Rescaled(
        optimizer=held.kind.name,
        base_batch_size=base,
        batch_size=new,
        factor=factor,
        changes=tuple(changes),
        groups=groups,
        ema_decay=average,
        batch_norm_momentum=momentum,
        warm_up=warm_up,
        schedule=read_schedule(schedule, schedule_unit or iterations(base)),
        warnings=(
            *_warn_of_subclass(held),
            *warn_of_warm_up(kappa, warm_up.samples if warm_up else None, new),
            *_warn_of_own_decays(held, kappa, keep_momentum_memory),
            *warn_of_noise_scale(base, new, noise_scale, is_linear=held.kind.family == "sgd"),
            *(() if batch_norm_momentum is None else warn_of_another_loss(base_batch_size, batch_size)),
            *warn_of_batch_norm(1.0 if batch_size == base_batch_size else kappa, batch_size),
        ),
    )


def rescale_learning_rate(
    optimizer: Optimizer,
    base_batch_size: int,
    batch_size: int,
    rate: float | None = None,
    *,
    noise_scale: NoiseScaleEstimate | float | None = None,
    world_size: int = 1,
) -> LearningRate:
    """Return the factor from `base_batch_size` to `batch_size`, and the new rate where the old one is given.

    Args:
        optimizer: The optimizer that trains.
        base_batch_size: Samples of one rank behind one optimizer step where `rate` was tuned.
        batch_size: Samples of one rank behind one optimizer step now (batch_size * accumulation_steps).
        rate: The learning rate at `base_batch_size`; None: the factor only.
        noise_scale: As `rescale` takes it; None: not measured.
        world_size: Ranks that train together, before and after: their samples count beside the noise scale.

    Raises:
        ValueError: A batch size is below 1, or the rate is not positive.
    """
    if base_batch_size < 1 or batch_size < 1 or (rate is not None and not rate > 0.0):
        raise ValueError(f"no rescaling from batch {base_batch_size} to {batch_size} at rate {rate}")
    kappa = batch_size / base_batch_size
    is_sgd = optimizer == "sgd"
    family, base = "sgd" if is_sgd else "adam", base_batch_size * world_size
    factor, rule = _rate_factor(family, kappa, base, noise_scale)
    words = NOISE_LIMITED_RULE if rule is rules.NOISE_LIMITED else LINEAR_RULE if is_sgd else SQUARE_ROOT_RULE
    told = (
        () if noise_scale is None else warn_of_noise_scale(base, batch_size * world_size, noise_scale, is_linear=is_sgd)
    )
    return LearningRate(
        factor=factor,
        rate=None if rate is None else rate * factor,
        rule=UNCHANGED_RULE if kappa == 1.0 else words,
        base_batch_size=base_batch_size,
        batch_size=batch_size,
        warnings=(
            *warn_of_warm_up(kappa),
            *warn_of_decays(kappa, () if is_sgd else (("beta1", ADAM_BETA1),)),
            *told,
            *warn_of_batch_norm(kappa, batch_size),
        ),
    )


def _effective(batch_size: int, accumulation_steps: int, world_size: int) -> int:
    """Return the samples behind one optimizer step."""
    for name, value in (
        ("batch size", batch_size),
        ("accumulation steps", accumulation_steps),
        ("world size", world_size),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"cannot rescale with a {name} of {value!r}", "Give whole numbers from 1 on.")
    return batch_size * accumulation_steps * world_size


def _check_averages(
    ema_decay: float | None, batch_norm_momentum: float | None, noise_scale: NoiseScaleEstimate | float | None
) -> None:
    for name, value in (("ema_decay", ema_decay), ("batch_norm_momentum", batch_norm_momentum)):
        if value is not None and not 0.0 < value < 1.0:
            raise UsageError(f"cannot rescale with {name}={value}", "It lies between 0 and 1.")
    if isinstance(noise_scale, (int, float)) and not 0.0 < noise_scale < math.inf:
        raise UsageError(f"cannot rescale with noise_scale={noise_scale}", "Give samples, a number above 0.")


def _rate_factor(
    family: str, kappa: float, base_batch_size: int, noise_scale: NoiseScaleEstimate | float | None
) -> tuple[float, rules.Rule]:
    """Return the factor of the learning rate, and the rule behind it."""
    if family == "adam":
        return math.sqrt(kappa), rules.SQUARE_ROOT
    if isinstance(noise_scale, NoiseScaleEstimate):
        known = None if noise_scale.is_lower_bound else noise_scale.samples
    else:
        known = noise_scale
    if known is None or kappa == 1.0:
        return kappa, rules.LINEAR
    return rules.noise_limited_factor(kappa, base_batch_size, known), rules.NOISE_LIMITED


def _rescale_groups(
    held: Held, kappa: float, base: int, noise_scale: NoiseScaleEstimate | float | None, keep_momentum_memory: bool
) -> tuple[tuple[Group, ...], list[Change], float]:
    """Return the new groups, what changed in them, and the factor of every group's rate."""
    factor, rule = _rate_factor(held.kind.family, kappa, base, noise_scale)
    memory = None
    if keep_momentum_memory:
        momenta = {group.get("momentum", 0.0) for group in held.groups}
        if held.kind.family != "sgd" or len(momenta) != 1:
            raise UsageError(
                "keep_momentum_memory needs SGD with one momentum for all groups",
                "Leave it out: the Adam family's betas follow the batch in any case.",
            )
        memory, further = rules.momentum_memory(momenta.pop(), kappa)
        factor *= further
    groups, changes = [], []
    for number, old in enumerate(held.groups):
        new = {**old, "lr": old["lr"] * factor}
        noted = {"lr": rule}
        if memory is not None:
            new["momentum"], noted["momentum"] = memory, rules.MOMENTUM_MEMORY
        if held.kind.family == "adam":
            noted |= _rescale_adam(new, kappa, held.is_decoupled(old))
        groups.append(new)
        for name, source in noted.items():
            changes += _note(name, number, old[name], new[name], source)
    return tuple(groups), changes, factor


def _rescale_adam(group: Group, kappa: float, is_decoupled: bool) -> dict[str, rules.Rule]:
    """Rescale what the Adam family has besides its rate, in place, and return the rule behind each.

    The betas average over as many samples as before. Gradients of larger batches have a spread that is sqrt(kappa)
    times smaller, and eps is added to that. Decoupled decay shrinks the weights by lr * weight_decay a step, so with
    lr growing by sqrt(kappa) it takes another sqrt(kappa) to shrink them as much a sample. Decay through the gradient
    is part of the loss, and stays.
    """
    noted = {}
    if "betas" in group:
        group["betas"] = tuple(rules.rescale_decay(beta, kappa) for beta in group["betas"])
        noted["betas"] = rules.DECAY
    if "alpha" in group:
        group["alpha"] = rules.rescale_decay(group["alpha"], kappa)
        noted["alpha"] = rules.DECAY
    if "eps" in group:
        group["eps"] /= math.sqrt(kappa)
        noted["eps"] = rules.EPS
    if is_decoupled and group.get("weight_decay"):
        group["weight_decay"] *= math.sqrt(kappa)
        noted["weight_decay"] = rules.DECOUPLED_DECAY
    return noted


def _note(name: str, group: int | None, old: Any, new: Any, rule: rules.Rule) -> list[Change]:
    return [] if old == new else [Change(name=name, group=group, old=old, new=new, rule=rule.name, source=rule.source)]


def _warm_up(
    kappa: float, factor: float, batch_size: int, sample_count: int | None, epochs: int | None
) -> WarmUp | None:
    for name, value in (("sample_count", sample_count), ("epochs", epochs)):
        if value is not None and value < 1:
            raise UsageError(f"cannot rescale with {name}={value}", "Give whole numbers from 1 on.")
    if kappa <= rules.WARM_UP_RATIO or factor <= 1.0:
        return None
    samples = None if sample_count is None else rules.warm_up_samples(sample_count, epochs)
    return WarmUp(start_ratio=1 / factor, samples=samples, steps=None if samples is None else -(-samples // batch_size))


def _warn_of_subclass(held: Held) -> list[str]:
    if held.own_name.lower() == held.kind.name.lower():
        return []
    return [f"{held.own_name} is treated as {held.kind.name}, from which it derives."]


def _warn_of_own_decays(held: Held, kappa: float, keep_momentum_memory: bool) -> list[str]:
    named = {
        (name, decay)
        for group in held.groups
        for name, decay in (
            *zip(("beta1", "beta2"), group.get("betas", ()), strict=False),
            *((("alpha", group["alpha"]),) if "alpha" in group else ()),
            *((("momentum", group["momentum"]),) if keep_momentum_memory else ()),
        )
    }
    return warn_of_decays(kappa, sorted(named))


def read_schedule(schedule: Any, unit: Unit) -> Any:
    """Return the schedule as a function of samples seen, relative to the base rate: a rescaled run keeps it as it is.

    Args:
        schedule: None, a frozen record of `loadtune.schedule` or a sequence of them, one of torch's own schedulers, or
            one that `anneal` made.
        unit: What a scheduler of torch's counts.

    Returns:
        The record; a tuple of them where the parameter groups differ.

    Raises:
        UsageError: It is none of these, or its constants cannot be read.
    """
    if schedule is None or isinstance(schedule, msgspec.Struct):
        return schedule
    if isinstance(curves := getattr(schedule, "curves", schedule), (tuple, list)) and curves:
        if all(isinstance(each, msgspec.Struct) for each in curves):
            return curves[0] if all(each == curves[0] for each in curves) else tuple(curves)
    elif _is_of_torch(schedule):
        # By name: torch is loaded by whoever has such a scheduler, and by nobody else.
        readers = importlib.import_module("loadtune.schedule.torch_schedulers")
        if type(schedule).__name__ == "ReduceLROnPlateau":
            return readers.read_plateau(schedule)
        curves = readers.read_curves(schedule, unit)
        return curves[0] if all(each == curves[0] for each in curves) else curves
    raise UsageError(
        f"cannot rescale a schedule of type {type(schedule).__name__}",
        "Give a schedule of loadtune.schedule.curve, or one of torch's own schedulers.",
    )


def counts_by_step(schedule: Any) -> bool:
    """Tell one of torch's own schedulers that count how often they are stepped, and so need a unit."""
    is_own = isinstance(getattr(schedule, "curves", None), tuple)
    return not is_own and _is_of_torch(schedule) and type(schedule).__name__ != "ReduceLROnPlateau"


def _is_of_torch(schedule: Any) -> bool:
    """Tell one of torch's schedulers by name: nothing here loads torch."""
    return any(each.__module__ == "torch.optim.lr_scheduler" for each in type(schedule).__mro__)
