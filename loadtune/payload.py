"""How do the caller's own objects reach the trial processes? Pickled by value, once, into memory that all can open."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import cloudpickle

from loadtune.errors import TargetError


def share_objects(objects: Mapping[str, Any], stack: ExitStack) -> str:
    """Return a path by which this user's processes open the objects while `stack` is open.

    Classes and functions of `__main__` travel by value, so a script is not run again.

    Raises:
        TargetError: One of them cannot travel; it is named.
    """
    for name, value in objects.items():
        try:
            cloudpickle.dumps(value)
        except Exception as error:
            raise TargetError(
                f"the {name} cannot be handed to a trial process: {type(error).__name__}: {error}",
                "open files, locks and GPU tensors cannot travel; create them in __init__ lazily, or pass a factory",
            ) from error
    content = cloudpickle.dumps(dict(objects))
    descriptor = os.memfd_create("loadtune-objects")
    stack.callback(os.close, descriptor)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return f"/proc/{os.getpid()}/fd/{descriptor}"
