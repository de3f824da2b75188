"""What was seen and not used, and how is it told? Counts by reason with a few examples, and printable names."""

from collections.abc import Iterable

from loadtune.records.report import LeftOut

NO_MASK = "no mask"
NO_IMAGE = "no image"
NOT_AN_IMAGE = "not an image"
DUPLICATE = "duplicate stem"
OUTSIDE_SPLITS = "outside the split folders"
LEAVES = "link that leaves the folder"
NOWHERE = "link that leads nowhere"
LISTED_ALREADY = "link to a folder listed already"
NOT_REGULAR = "not a regular file"
TOO_DEEP = "folder nested too deep"
NOT_FOUND = "named in the split list, not found"
UNCLEAR = "named in the split list, fits several images"
NOT_THERE = "named in the annotations, not there"
MATCHES_NOTHING = "split list that matches no image"

EXAMPLE_LIMIT = 3
"""Examples kept of a reason. More would fill a terminal, since every reason brings its own."""

NAME_LIMIT = 120
"""Longest name in a message, in characters. A name may have 255 bytes, and a message is one line."""


class Tally:
    """Left-out names by reason. The examples are the first in byte order, whatever order they are met in."""

    __slots__ = ("_counts", "_examples")

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[bytes]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, reason: str, example: bytes) -> None:
        """Count one name."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        self._keep(reason, example)

    def add_all(self, reason: str, folder: bytes, names: Iterable[bytes]) -> None:
        """Count the names of one folder."""
        for name in names:
            self.add(reason, join(folder, name))

    def merge(self, other: "Tally") -> None:
        """Add what another has counted."""
        for reason, count, examples in other.items():
            self._counts[reason] = self._counts.get(reason, 0) + count
            for example in examples:
                self._keep(reason, example)

    def items(self) -> list[tuple[str, int, list[bytes]]]:
        """Return (reason, count, examples), the most frequent first."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return [(reason, count, self._examples[reason]) for reason, count in ordered]

    def records(self) -> tuple[LeftOut, ...]:
        """Return one record a reason, the most frequent first."""
        return tuple(
            LeftOut(reason=reason, count=count, examples=tuple(map(printable, examples)))
            for reason, count, examples in self.items()
        )

    def summary(self) -> str:
        """Return "3 no mask (images/a.jpg), 1 not an image (masks/b.txt)"."""
        return ", ".join(f"{record.count} {record.reason} ({record.examples[0]})" for record in self.records())

    def _keep(self, reason: str, example: bytes) -> None:
        kept = self._examples.setdefault(reason, [])
        if len(kept) < EXAMPLE_LIMIT or example < kept[-1]:
            kept.append(example)
            kept.sort()
            del kept[EXAMPLE_LIMIT:]


def join(folder: bytes, name: bytes) -> bytes:
    """Return a path relative to the root, where b"" is the root itself."""
    return folder + b"/" + name if folder else name


def printable(name: bytes) -> str:
    """Return a name as one line that JSON and a terminal can hold: what they cannot becomes U+FFFD."""
    text = name.decode("utf-8", "replace")
    text = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    return text if len(text) <= NAME_LIMIT else f"{text[: NAME_LIMIT - 3]}..."


def printable_folder(folder: bytes) -> str:
    """Return a folder's name with its slash; the root is "./"."""
    return f"{printable(folder)}/" if folder else "./"
