"""What tells one handed-over object from another, alike in every run of a script? Its structure, not its weights.

Pickles will not do: classes of `__main__` travel under names drawn anew in each process. So a value is described by
what it is made of: types, code, settings, paths, and of arrays their shapes. Weights change with every step and cost
nothing.
"""

import dis
import hashlib
import re
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

DEPTH_MAX = 8
"""Levels looked into. A data set in a subset in a loader has five."""
PARTS_MAX = 200_000
"""Parts of one object. Beyond them it is not told apart reliably within a second, so nothing is kept for it."""

_ADDRESS = re.compile(r"0x[0-9a-f]+")
PLAIN = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis), range, slice)
"""Types that hold nothing else, and whose text tells them apart."""


class NotDescribableError(Exception):
    """An object too large or too deep to be told from others."""


def fingerprint(value: Any) -> str:
    """Return a digest of a value.

    Raises:
        NotDescribableError: It has more than `PARTS_MAX` parts, or raises when it is looked at.
    """
    digest = hashlib.sha256()
    count = 0
    try:
        for text in islice(_parts(value, 0, set()), PARTS_MAX + 1):
            digest.update(text.encode("utf-8", "surrogateescape"))
            digest.update(b"\0")
            count += 1
    except Exception as error:
        raise NotDescribableError(f"{type(error).__name__}: {error}") from error
    if count > PARTS_MAX:
        raise NotDescribableError(f"more than {PARTS_MAX} parts")
    return digest.hexdigest()


def _parts(value: Any, depth: int, path: set[int]) -> Iterator[str]:
    """Yield texts that describe a value; `path` holds what it lies in, so that circles end."""
    if isinstance(value, PLAIN):
        yield f"{type(value).__name__} {value!r}"
        return
    if id(value) in path or depth > DEPTH_MAX:
        yield f"... {type(value).__qualname__}"
        return
    yield f"{type(value).__module__}.{type(value).__qualname__}"
    inner = path | {id(value)}
    for part in inside(value):
        yield from _parts(part, depth + 1, inner)


def inside(value: Any) -> Iterator[Any]:
    """Yield what a value is made of."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield each
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, set | frozenset):
        yield sorted(map(repr, value))
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, MethodType):
        yield value.__func__
        yield value.__self__
    elif isinstance(value, partial):
        yield value.func
        yield value.args
        yield value.keywords
    elif isinstance(value, CodeType):
        yield value.co_code
        yield value.co_names
        yield value.co_consts
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, type):
        yield from _of_class(value)
    elif hasattr(value, "shape") and hasattr(value, "dtype"):
        yield f"{tuple(value.shape)} {value.dtype}"
    else:
        yield from _of_instance(value)


def _of_function(value: FunctionType) -> Iterator[Any]:
    """Yield the code of one's own function and what it refers to; a library's is told by its name."""
    yield f"{value.__module__}.{value.__qualname__}"
    if not _is_of_a_library(value.__module__):
        yield value.__code__
        yield value.__defaults__
        yield value.__kwdefaults__
        yield [cell.cell_contents for cell in value.__closure__ or ()]
        names = sorted(_global_names(value.__code__))
        yield {name: value.__globals__[name] for name in names if name in value.__globals__}


def _global_names(code: CodeType) -> set[str]:
    """Return what a function and those in it read from their module; `co_names` holds attributes besides."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    return names.union(*(_global_names(each) for each in code.co_consts if isinstance(each, CodeType)))


def _is_of_a_library(module: str | None) -> bool:
    """Say whether a module is installed rather than written for this training: its version tells it then."""
    root = (module or "").partition(".")[0]
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root != "__main__" and (
        root in sys.stdlib_module_names or "site-packages" in file or "dist-packages" in file
    )


def _of_class(value: type) -> Iterator[Any]:
    """Yield the code of one's own class and of its bases; a library's is told by its name."""
    yield f"{value.__module__}.{value.__qualname__}"
    if not _is_of_a_library(value.__module__):
        yield value.__bases__
        for name, each in vars(value).items():
            if isinstance(each, FunctionType | staticmethod | classmethod | property):
                yield name
                yield getattr(each, "__func__", None) or getattr(each, "fget", None) or each


def _of_instance(value: Any) -> Iterator[Any]:
    yield type(value)
    state = getattr(value, "__dict__", None)
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    if state is None and not slots:
        yield _ADDRESS.sub("", repr(value))
        return
    for name in sorted(state or ()):
        if not name.startswith("__"):
            yield name
            yield state[name] if state is not None else None
    for name in slots:
        if hasattr(value, name):
            yield name
            yield getattr(value, name)
