"""How is a report shown to strangers? Home path, user name and host name leave every text of it."""

import re
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
    plain = _without(msgspec.to_builtins(saved, order="deterministic"), patterns)
    return msgspec.convert(plain, type(saved))


def _patterns(identity: Identity) -> list[tuple[re.Pattern[str], str]]:
    found = []
    if len(identity.home) > 1:
        found.append((re.compile(re.escape(identity.home.rstrip("/")) + r"(?![\w.-])"), "~"))
    for name, instead in ((identity.host, "[host]"), (identity.user, "[user]")):
        if len(name) > 1 and name.lower() not in COMMON_NAMES:
            found.append((re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), instead))
    return found


def _without(value: Any, patterns: list[tuple[re.Pattern[str], str]]) -> Any:
    if isinstance(value, str):
        for pattern, instead in patterns:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, dict):
        return {_without(key, patterns): _without(each, patterns) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without(each, patterns) for each in value]
    return value
