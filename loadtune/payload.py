"""How do the caller's own objects reach the trial processes? Pickled by value, once, into memory that all can open.

Which of them cannot is asked first: then the trials run where the objects are (`engine.here`).
"""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import cloudpickle


class Homebound(NamedTuple):
    """Something that cannot leave this process."""

    name: str
    """As it was handed over: "dataset", "train_step"."""
    reason: str


def find_homebound(objects: Mapping[str, Any]) -> Homebound | None:
    """Return the first object that cannot be pickled, and so cannot travel to a trial process; None: all can."""
    for name, value in objects.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:  # noqa: BLE001 - what the user's own __getstate__ raises is the reason told
            return Homebound(name, f"{type(error).__name__}: {error}".splitlines()[0])
    return None


def share_objects(objects: Mapping[str, Any], stack: ExitStack) -> str:
    """Return a path by which this user's processes open the objects while `stack` is open.

    Classes and functions of `__main__` travel by value, so a script is not run again. `find_homebound` has found
    none that cannot.
    """
    content = cloudpickle.dumps(dict(objects))
    descriptor = os.memfd_create("loadtune-objects")
    stack.callback(os.close, descriptor)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return f"/proc/{os.getpid()}/fd/{descriptor}"
