"""What does an optimizer hold? Its kind and the hyperparameters of its groups, from an object or from a name.

An object is read by its class's name and its `param_groups`, so that nothing here needs torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from loadtune.errors import UsageError

Group = dict[str, Any]
"""A parameter group's hyperparameters by torch's names: floats, bools, and betas as a tuple of two."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An optimizer that there is a rule for."""

    name: str
    """Of torch's class, by which it is pasted."""
    family: Literal["sgd", "adam"]
    defaults: Group
    """What torch takes where nothing is given (torch 2.14). A stale one would be printed as if the user ran it."""
    is_decoupled: bool = False
    """Whether weight decay acts on the weights themselves and not through the gradient."""


_ADAM: Group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
KINDS = {
    kind.name.lower(): kind
    for kind in (
        Kind("SGD", "sgd", {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}),
        Kind("Adam", "adam", {**_ADAM, "decoupled_weight_decay": False}),
        Kind("AdamW", "adam", {**_ADAM, "weight_decay": 1e-2}, is_decoupled=True),
        Kind("RAdam", "adam", {**_ADAM, "decoupled_weight_decay": False}),
        Kind("RMSprop", "adam", {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0, "momentum": 0.0}),
    )
}
"""By lower-case name. Others (LARS, LAMB, Lion, Muon, Adagrad, Adafactor) have no rule that was checked here."""


@dataclass(frozen=True, slots=True)
class Held:
    """What was read."""

    kind: Kind
    groups: tuple[Group, ...]
    own_name: str
    """Of the object's class, or the name as given; differs from `kind.name` for a subclass."""

    def is_decoupled(self, group: Group) -> bool:
        """Say whether a group's weight decay is decoupled (torch's Adam takes that as an option)."""
        return self.kind.is_decoupled or bool(group.get("decoupled_weight_decay", False))


def read_optimizer(optimizer: Any, hyperparameters: Mapping[str, Any]) -> Held:
    """Return what an optimizer holds.

    Args:
        optimizer: A torch optimizer, or the name of one ("sgd", "adamw").
        hyperparameters: Of a named optimizer, `lr` at least; what is missing is torch's default.

    Raises:
        UsageError: There is no rule for it, `lr` is missing, or a hyperparameter is not one of the optimizer's or is
            out of its range.
    """
    if isinstance(optimizer, str):
        kind = KINDS.get(optimizer.lower())
        if kind is None:
            raise _unknown(optimizer)
        unknown = sorted(set(hyperparameters) - set(kind.defaults))
        if unknown or "lr" not in hyperparameters:
            what = f"{kind.name} has no hyperparameter {', '.join(unknown)}" if unknown else f"{kind.name} without lr"
            raise UsageError(f"cannot rescale: {what}", f"Give lr=..., and any of {', '.join(kind.defaults)}.")
        return Held(kind, (_read_group(kind, {**kind.defaults, **hyperparameters}),), kind.name)
    groups = getattr(optimizer, "param_groups", None)
    names = [each.__name__ for each in type(optimizer).__mro__]
    found = next((KINDS[name.lower()] for name in names if name.lower() in KINDS), None)
    if groups is None or found is None:
        raise _unknown(names[0])
    if hyperparameters:
        raise UsageError(
            f"cannot rescale: {', '.join(sorted(hyperparameters))} given beside an optimizer that has its own",
            'Give the optimizer alone, or its name with hyperparameters: rescale("sgd", ..., lr=0.1).',
        )
    return Held(found, tuple(_read_group(found, group) for group in groups), names[0])


def _unknown(name: str) -> UsageError:
    known = ", ".join(kind.name for kind in KINDS.values())
    return UsageError(
        f"cannot rescale {name}: there are rules for {known}",
        'Hand over the optimizer within a wrapper, or name what updates as it does: rescale("adamw", ..., lr=0.1).',
    )


def _read_group(kind: Kind, group: Mapping[str, Any]) -> Group:
    """Return the hyperparameters that a rule, or what is pasted, may need.

    A scheduler keeps the base rate as `initial_lr` and changes `lr` as it goes.
    """
    given = {**group, "lr": group.get("initial_lr", group["lr"])}
    found = {name: _plain(kind, name, given[name]) for name in kind.defaults if name in given}
    _check(kind, found)
    return found


def _plain(kind: Kind, name: str, value: Any) -> Any:
    """Return a number as Python's own: torch takes one-element tensors for lr and betas."""
    try:
        if name == "betas":
            first, second = value
            return float(first), float(second)
        return bool(value) if isinstance(kind.defaults[name], bool) else float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"cannot rescale {kind.name} with {name}={value!r}", f"Give {name} as torch takes it."
        ) from error


def _check(kind: Kind, group: Group) -> None:
    """Refuse what torch itself would refuse, or what no rule can turn into anything."""
    decays: dict[str, tuple[float, ...]] = {n: (group[n],) for n in ("alpha", "momentum") if n in group}
    decays["betas"] = group.get("betas", ())
    for name, values in decays.items():
        if not all(0.0 <= value < 1.0 for value in values):
            raise UsageError(f"cannot rescale {kind.name} with {name}={group[name]}", "It is at least 0 and below 1.")
    for name in {"lr", "eps", "weight_decay"} & group.keys():
        value = group[name]
        if not 0.0 <= value < math.inf or (name == "lr" and value == 0.0):
            raise UsageError(f"cannot rescale {kind.name} with {name}={value}", "Give a number above 0.")
