"""How are methods of the user's classes timed without their code noticing? On the class itself, in a worker alone.

A worker is a process of its own, so a method may be replaced in its class there and put back afterwards. Instances stay
what they are: their class, their attributes, what isinstance, super and pickle make of them. Only plain functions of
classes that anyone may write to are replaced; what a class makes of its attributes otherwise is left to it.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

ABSENT = object()
"""Stands for an attribute that a class does not hold itself: it is inherited, or not there at all."""


class _Replaced(NamedTuple):
    kind: type
    name: str
    held: Any
    """What the class itself held: a function, or ABSENT where it inherits one."""
    timed: Callable[..., Any]


class TimedMethods:
    """Methods that are timed while switched on. Switched off, their classes are as they were."""

    def __init__(self) -> None:
        self._replaced: list[_Replaced] = []

    def add(self, kind: type, name: str, timed: Callable[[FunctionType], Callable[..., Any]]) -> bool:
        """Have a method timed from the next `switch(is_on=True)`, and say whether that can be done.

        Args:
            kind: The class whose instances call it; whether it or a base class defines the method makes no difference.
            name: Of the method.
            timed: Takes the class's own function, and returns one that does the same and is timed.
        """
        own = find_attribute(kind, name)
        if type(own) is not FunctionType or type(kind).__setattr__ is not type.__setattr__:
            return False
        held = vars(kind).get(name, ABSENT)
        self._replaced.append(_Replaced(kind, name, held, functools.wraps(own)(timed(own))))
        return True

    def switch(self, *, is_on: bool) -> None:
        """Put the timed methods in place, or what was there before; what others have put there since is left alone."""
        for each in self._replaced:
            before, after = (each.held, each.timed) if is_on else (each.timed, each.held)
            if vars(each.kind).get(each.name, ABSENT) is not before:
                continue
            if after is ABSENT:
                delattr(each.kind, each.name)
            else:
                setattr(each.kind, each.name, after)


def find_attribute(kind: type, name: str) -> Any:
    """Return what a class or its bases hold by this name, as it is, or ABSENT; no code of the class is run."""
    return next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), ABSENT)


def find_held(thing: Any, name: str) -> Any:
    """Return what an instance itself holds by this name, or None; no code of its class is run."""
    try:
        return object.__getattribute__(thing, "__dict__").get(name)
    except AttributeError:  # it has slots, or is no Python object
        return None
