"""What did rescaling change, and how is it set, shown and pasted?"""

import math
from typing import Annotated, Any

from msgspec import Meta

from loadtune.errors import UsageError
from loadtune.records.record import Record
from loadtune.schedule.optimizers import KINDS, Group, read_optimizer

DIGITS = 6
"""Of what is shown and pasted. With fewer, a pasted beta2 = 0.999984 would remember a different number of samples."""
SAME_RATIO = 1e-6
"""How far a hyperparameter may be from what was read, to be still the same: torch may keep it in single precision."""

Figure = float | tuple[float, ...]


class Change(Record, frozen=True, kw_only=True):
    """One hyperparameter that changed."""

    name: Annotated[str, Meta(description="torch's name; ema_decay and batch_norm_momentum apart.")]
    group: Annotated[int | None, Meta(description="Number of the parameter group; None: not the optimizer's.")] = None
    old: Figure
    new: Figure
    rule: str
    source: Annotated[str, Meta(description="The paper that the rule is from.")]


class WarmUp(Record, frozen=True, kw_only=True):
    """A rate that rises linearly, from the old base rate to the new (Goyal et al. 2017, 2.2)."""

    start_ratio: Annotated[float, Meta(gt=0, le=1, description="The old rate by the new.")]
    samples: Annotated[int | None, Meta(description="How long; None: five epochs, whose length was not told.")] = None
    steps: Annotated[int | None, Meta(description="The same in optimizer steps at the new batch size.")] = None

    def ratio_at(self, samples: float) -> float:
        """Return the share of the new rate after so many samples: `start_ratio` at first, 1 after `self.samples`.

        Raises:
            ValueError: How long to warm up is not known.
        """
        if self.samples is None:
            raise ValueError("the length of the warm-up is not known: rescale with sample_count")
        done = min(1.0, samples / self.samples)
        return self.start_ratio + (1 - self.start_ratio) * done


class Rescaled(Record, frozen=True, kw_only=True):
    """A training's hyperparameters at another batch size. Its text says what changed, why, and what to paste."""

    optimizer: Annotated[str, Meta(description="torch's class.")]
    base_batch_size: Annotated[int, Meta(ge=1, description="Samples behind one optimizer step, before.")]
    batch_size: Annotated[int, Meta(ge=1, description="The same, now: with accumulation and all processes.")]
    factor: Annotated[float, Meta(gt=0, description="By which every group's rate is multiplied.")]
    changes: tuple[Change, ...] = ()
    groups: Annotated[tuple[Group, ...], Meta(description="The new hyperparameters of each parameter group.")]
    ema_decay: float | None = None
    batch_norm_momentum: float | None = None
    warm_up: Annotated[WarmUp | None, Meta(description="None: not needed.")] = None
    schedule: Annotated[Any, Meta(description="Function of samples seen, relative to the base rate: unchanged.")] = None
    warnings: tuple[str, ...] = ()

    @property
    def kappa(self) -> float:
        """The batch ratio."""
        return self.batch_size / self.base_batch_size

    @property
    def code(self) -> str:
        """Python to paste, where torch and the parameters are at hand."""
        defaults = KINDS[self.optimizer.lower()].defaults
        lines = [_construct(self.optimizer, self.groups, defaults)]
        if self.warm_up is not None and self.warm_up.steps is not None:
            start, steps = _show(self.warm_up.start_ratio), self.warm_up.steps
            lines.append(
                f"warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor={start}, total_iters={steps})"
            )
        if any(change.name == "ema_decay" for change in self.changes):
            lines.append(f"ema_decay = {_show(self.ema_decay)}")
        if any(change.name == "batch_norm_momentum" for change in self.changes):
            lines += [
                "for module in model.modules():",
                "    if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):",
                f"        module.momentum = {_show(self.batch_norm_momentum)}",
            ]
        return "\n".join(lines)

    @property
    def setting_code(self) -> tuple[str, ...]:
        """Lines of Python that set the new hyperparameters on the optimizer that was read, and leave all others."""
        lines = []
        for number, group in enumerate(self.groups):
            changed = [change.name for change in self.changes if change.group == number]
            if changed:
                lines.append(f"optimizer.param_groups[{number}].update({_arguments(group, changed)})")
        return tuple(lines)

    def apply(self, optimizer: Any) -> None:
        """Set the new hyperparameters on the optimizer that was read, in place.

        Raises:
            UsageError: It is another optimizer, it no longer holds what was read (it was rescaled already), or a
                scheduler is attached, which keeps base rates of its own. Nothing is set then.
        """
        held = read_optimizer(optimizer, {})
        if held.kind.name != self.optimizer or len(held.groups) != len(self.groups):
            raise UsageError(
                f"cannot set {self.optimizer} with {len(self.groups)} groups on {held.kind.name} with "
                f"{len(held.groups)}",
                "Give the optimizer that was rescaled.",
            )
        if any("initial_lr" in group for group in optimizer.param_groups):
            raise UsageError(
                "cannot set rates where a scheduler is attached: it keeps the old base rates",
                "Make the scheduler after apply().",
            )
        own = [(change, change.group) for change in self.changes if change.group is not None]
        for change, number in own:
            found = held.groups[number][change.name]
            if not _is_same(found, change.old):
                raise UsageError(
                    f"{change.name} is {_show(found)} and not {_show(change.old)}, as it was read",
                    "Rescale again from what the optimizer holds now; apply() works once.",
                )
        for change, number in own:
            _set(optimizer.param_groups[number], change.name, change.new)

    def __repr__(self) -> str:
        return "\n".join(_describe(self))


def _describe(rescaled: Rescaled) -> list[str]:
    """Return the lines that people read."""
    batches = f"from {rescaled.base_batch_size} to {rescaled.batch_size} samples a step"
    lines = [f"{rescaled.optimizer} {batches} ({rescaled.kappa:.4g} times)"]
    if not rescaled.changes:
        lines.append("  nothing changes")
    lines += [_describe_changes(each) for each in _by_name(rescaled.changes)]
    warm_up = rescaled.warm_up
    if warm_up is not None:
        length = "5 epochs" if warm_up.samples is None else f"{warm_up.samples} samples ({warm_up.steps} steps)"
        lines.append(f"  {'warm-up':20}the rate rises from {_show(warm_up.start_ratio)} of it to all of it in {length}")
    if rescaled.schedule is not None:
        lines.append(f"  {'schedule':20}unchanged as a function of samples seen")
    lines += [f"warning: {warning}" for warning in rescaled.warnings]
    return [*lines, "paste", *(f"  {line}" for line in rescaled.code.splitlines())]


def _by_name(changes: tuple[Change, ...]) -> list[list[Change]]:
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.name, []).append(change)
    return list(found.values())


def _describe_changes(changes: list[Change]) -> str:
    """Return one line for what became of one hyperparameter in all groups; equal ones are said once."""
    pairs = dict.fromkeys((_show(change.old), _show(change.new)) for change in changes)
    old, new = (", ".join(side) for side in zip(*pairs, strict=True))
    return f"  {changes[0].name:20}{old} -> {new}   ({changes[0].rule}: {changes[0].source})"


def _construct(name: str, groups: tuple[Group, ...], defaults: Group) -> str:
    """Return the line that makes the optimizer; what is torch's default in every group is left out, but for lr."""
    written = [key for key in groups[0] if key == "lr" or any(group.get(key) != defaults.get(key) for group in groups)]
    if len(groups) == 1:
        return f"optimizer = torch.optim.{name}(params, {_arguments(groups[0], written)})"
    lines = [f"    dict(params=params_{number}, {_arguments(group, written)})," for number, group in enumerate(groups)]
    return "\n".join([f"optimizer = torch.optim.{name}([", *lines, "])"])


def _arguments(group: Group, written: list[str]) -> str:
    return ", ".join(f"{key}={_show(group[key])}" for key in written if key in group)


def _show(value: Any) -> str:
    """Write a number so that Python reads it back, to DIGITS significant digits of what is away from 0 and from 1."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_show, value))})"
    if 0.5 < value < 1.0:  # a decay is told by how far it is from 1
        rest = f"{1 - value:.{DIGITS - 1}e}"
        places = max(0, -int(rest.partition("e")[2]) + DIGITS - 1)
        return f"{value:.{places}f}".rstrip("0")
    return f"{value:.{DIGITS}g}"


def _is_same(found: Any, read: Any) -> bool:
    if isinstance(found, tuple):
        return len(found) == len(read) and all(map(_is_same, found, read))
    return math.isclose(found, read, rel_tol=SAME_RATIO)


def _set(group: dict[str, Any], name: str, new: Any) -> None:
    """Set one hyperparameter; one that is a tensor, which a CUDA graph may read, is filled in place."""
    held = group[name]
    if name == "betas":
        group[name] = tuple(_filled(old, value) for old, value in zip(held, new, strict=True))
    else:
        group[name] = _filled(held, new)


def _filled(held: Any, new: float) -> Any:
    if hasattr(held, "fill_"):
        held.fill_(new)
        return held
    return new
