"""What makes a record: frozen, keyword-only, JSON-able, and never holding a number that JSON cannot hold."""

import math
from typing import Any

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every record.

    msgspec checks types when it decodes, not when Python code constructs, and writes NaN as null: a non-finite
    number would come back as "not measured". So it is refused here, on both paths.

    Raises:
        ValueError: A float field, or a float inside a tuple field, is NaN or infinite.
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _refuse_non_finite(type(self).__name__, name, getattr(self, name))


def _refuse_non_finite(owner: str, name: str, value: Any) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{owner}.{name} is {value}: a record holds finite numbers or None")
    elif isinstance(value, tuple):
        for item in value:
            if isinstance(item, (float, tuple)):
                _refuse_non_finite(owner, name, item)
