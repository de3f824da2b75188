"""How is a report shown to strangers? Home path, user name and host name leave every text of it."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from loadtune.render.saved import Saved

SavedT = TypeVar("SavedT", bound=Saved)

COMMON_NAMES = frozenset({"root", "user", "localhost", "ubuntu", "admin", "app", "data", "home", "loadtune", "torch"})
"""Names that say nothing of a person, and are words of a report besides: they stay."""


class Identity(NamedTuple):
    """What tells whose machine it was."""

    home: str
    user: str
    host: str


def redact(saved: SavedT, identity: Identity) -> SavedT:
    """Return a report or verification without what tells whose it is: `~`, `[user]` and `[host]` stand instead."""
    patterns = _patterns(identity)
    words = frozenset(_fixed_words(msgspec.json.schema(type(saved))))
    plain = _without(msgspec.to_builtins(saved, order="deterministic"), patterns, words)
    return msgspec.convert(plain, type(saved))


def _patterns(identity: Identity) -> list[tuple[re.Pattern[str], str]]:
    found = []
    if len(identity.home) > 1:
        found.append((re.compile(re.escape(identity.home.rstrip("/")) + r"(?![\w.-])"), "~"))
    for name, instead in ((identity.host, "[host]"), (identity.user, "[user]")):
        if len(name) > 1 and name.lower() not in COMMON_NAMES:
            found.append((re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), instead))
    return found


def _fixed_words(schema: Any) -> Iterator[str]:
    """Yield the words that the format itself fixes, such as `grid`: a user may be called the same."""
    if isinstance(schema, dict):
        yield from (word for word in (*schema.get("enum", ()), schema.get("const")) if isinstance(word, str))
        for each in schema.values():
            yield from _fixed_words(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _fixed_words(each)


def _without(value: Any, patterns: list[tuple[re.Pattern[str], str]], words: frozenset[str]) -> Any:
    if isinstance(value, str) and value not in words:
        for pattern, instead in patterns:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, dict):
        # Names of fields stay; those of versions and the like tell nobody's name.
        return {key: _without(each, patterns, words) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without(each, patterns, words) for each in value]
    return value
