"""What is said of the readings: which are there, and for each that is not, why and what that costs the diagnosis?

Reports and verifications share these sentences; the costs are those of `monitor.readings`.
"""

from collections.abc import Iterable

from loadtune.records.resources import Reading
from loadtune.render.words import one_line


def compose_readings(readings: Iterable[Reading]) -> tuple[str, ...]:
    """Say which readings are there, and for each that is not, why and what that costs the diagnosis."""
    readings = tuple(readings)
    there = [reading.name for reading in readings if reading.is_available]
    missing = [reading for reading in readings if not reading.is_available]
    lines = [f"available: {_list(there)}"] if there else []
    lines += compose_missing(readings)
    unneeded = [f"{reading.name} ({_sentence(reading.reason)})" for reading in missing if not reading.is_needed]
    return (*lines, f"not available, and not needed here: {_list(unneeded)}") if unneeded else tuple(lines)


def compose_missing(readings: Iterable[Reading]) -> tuple[str, ...]:
    """Say of each reading that is needed and is not there why, and what that costs the diagnosis."""
    return tuple(_compose_missing(reading) for reading in readings if reading.is_needed and not reading.is_available)


def _compose_missing(reading: Reading) -> str:
    cost = f". What that costs: {_sentence(reading.cost)}" if reading.cost else ""
    return f"{one_line(reading.name)}: not available: {_sentence(reading.reason)}{cost}"


def _sentence(text: str | None) -> str:
    """Return foreign text on one line, without the stop that another sentence goes on from."""
    return one_line(text or "").rstrip(".")


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(one_line, names))
