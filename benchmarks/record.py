"""What do all benchmarks write down? The machine, long-form rows with what disturbed them, and criteria.

A record is a JSON file below reports/benchmarks/. It is saved after every measurement, so that a run that was cut
short goes on where it stopped: `load`, skip what `has` says is there, `measure`, `save`.
"""

import json
import os
import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

REPORTS = Path(__file__).resolve().parent.parent / "reports" / "benchmarks"

PACKAGES = ("torch", "torchvision", "numpy", "loadtune-probe")
"""Distributions whose versions are recorded. They are not imported for it."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Criterion:
    """What a benchmark promises, and whether the rows keep the promise."""

    name: str
    target: str
    """In words and numbers, with the unit: "at most 33 bytes"."""
    value: float | None
    """Median over the repeats; None: not measured."""
    low: float | None
    high: float | None
    """Least and largest of the repeats."""
    met: bool | None
    """None: not measured. Judged by the repeat that is worst for the promise."""


def at_most(name: str, limit: float, unit: str, values: Sequence[float]) -> Criterion:
    """Return the promise that no repeat exceeds a limit."""
    met = max(values) <= limit if values else None
    return _criterion(name, f"at most {limit:g} {unit}".strip(), values, met)


def at_least(name: str, limit: float, unit: str, values: Sequence[float]) -> Criterion:
    """Return the promise that no repeat falls short of a limit."""
    met = min(values) >= limit if values else None
    return _criterion(name, f"at least {limit:g} {unit}".strip(), values, met)


def load(name: str, seeds: Sequence[int] = (), folder: Path | None = None, **options: object) -> dict[str, Any]:
    """Return the saved record of a benchmark, or a fresh one.

    Rows stay only if machine and versions are still the same and every option (`samples=1000000`) agrees.

    Args:
        name: The benchmark, which is also its file's name.
        seeds: Every seed it uses.
        folder: Where its file is; None: reports/benchmarks/.
        options: What its rows depend on; every row carries them.
    """
    fresh: dict[str, Any] = {
        "benchmark": name,
        "started": now(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "seeds": list(seeds),
        "rows": [],
        "criteria": [],
    }
    path = (folder or REPORTS) / f"{name}.json"
    if not path.exists():
        return fresh
    saved: dict[str, Any] = json.loads(path.read_text())
    if any(saved.get(key) != fresh[key] for key in ("machine", "versions", "seeds")):
        return fresh
    saved["rows"] = [row for row in saved["rows"] if options.items() <= row.items()]
    return saved if saved["rows"] else fresh


def save(record: dict[str, Any], criteria: Sequence[Criterion] = (), folder: Path | None = None) -> Path:
    """Write a record at once or not at all, and return where."""
    record["criteria"] = [asdict(criterion) for criterion in criteria]
    folder = folder or REPORTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['benchmark']}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    partial.replace(path)
    return path


def has(record: dict[str, Any], **keys: object) -> bool:
    """Say whether a row with these values is there already."""
    return any(keys.items() <= row.items() for row in record["rows"])


def values(record: dict[str, Any], **keys: object) -> list[float]:
    """Return the values of the rows with these keys, in the order they were measured."""
    return [row["value"] for row in record["rows"] if keys.items() <= row.items() and row["value"] is not None]


@dataclass(slots=True)
class Measured:
    """What one measurement gives: any number of quantities, which share its start and its disturbances."""

    values: dict[str, tuple[float | None, str]] = field(default_factory=dict)
    """Quantity to (value, unit)."""

    def add(self, quantity: str, value: float | None, unit: str) -> None:
        """Note one quantity."""
        self.values[quantity] = (value, unit)


@contextmanager
def measure(record: dict[str, Any], **keys: object) -> Iterator[Measured]:
    """Add a row for each quantity noted in the block, with the CPU that others used meanwhile.

    Only what this process and its children burned counts as ours, and a child counts once it was waited for.
    """
    measured = Measured()
    started, before = now(), _cpu_seconds()
    began_s, own_s = time.monotonic(), _own_seconds()
    yield measured
    disturbance = _disturbance(before, _cpu_seconds(), time.monotonic() - began_s, _own_seconds() - own_s)
    for quantity, (value, unit) in measured.values.items():
        row = {**keys, "quantity": quantity, "value": value, "unit": unit, "started": started, **disturbance}
        record["rows"].append(row)


def describe_machine() -> dict[str, Any]:
    """Return processor, usable CPUs, memory and system; no name by which the machine could be told."""
    return {
        "processor": _processor(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str | None]:
    """Return the versions of Python and of what is measured; None: not installed as a distribution."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def now() -> str:
    """Return the time as ISO 8601 with its offset."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def show(record: dict[str, Any], criteria: Sequence[Criterion]) -> None:
    """Print the medians of the rows and the criteria."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in record["rows"]:
        if row["value"] is not None:
            groups.setdefault((row["variant"], row["quantity"], row["unit"]), []).append(row["value"])
    for (variant, quantity, unit), found in groups.items():
        print(f"{variant:24}{quantity:28}{median(found):>14.4g} {unit:10} [{min(found):.4g} {max(found):.4g}]")
    for criterion in criteria:
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        value = "" if criterion.value is None else f"{criterion.value:.4g}, "
        print(f"{state:13} {criterion.name}: {value}{criterion.target}")


def _criterion(name: str, target: str, found: Sequence[float], met: bool | None) -> Criterion:
    if not found:
        return Criterion(name, target, None, None, None, None)
    return Criterion(name, target, median(found), min(found), max(found), met)


def _processor() -> str | None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _own_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu_seconds() -> tuple[float, float, float] | None:
    """Return busy, stolen and all seconds of all CPUs: `cpu  user nice system idle iowait irq softirq steal ...`."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, idle, iowait, irq, softirq, steal = (
            int(text) / os.sysconf("SC_CLK_TCK") for text in fields
        )
    except (OSError, ValueError):
        return None
    busy = user + nice + system + irq + softirq
    return busy, steal, busy + steal + idle + iowait


def _disturbance(
    before: tuple[float, float, float] | None, after: tuple[float, float, float] | None, wall_s: float, own_s: float
) -> Row:
    if before is None or after is None or after[2] <= before[2]:
        reason = "/proc/stat is not there, or did not advance within the measurement"
        return {"foreign_cpu_cores": None, "steal_ratio": None, "not_read": reason}
    busy, steal, total = (late - early for early, late in zip(before, after, strict=True))
    foreign = max(0.0, busy - own_s) / wall_s
    return {"foreign_cpu_cores": round(foreign, 3), "steal_ratio": round(steal / total, 4), "not_read": None}
