"""How many samples does an epoch hold, over all ranks, at one batch size and at another?

A schedule counts the samples behind the optimizer steps. What a loader drops, because it fills no batch (drop_last), is
behind none of them, and another batch size drops another number.
"""

from typing import Any

import msgspec
from msgspec import structs

from loadtune.schedule.curve import Unit


def count_epoch(sample_count: int | None, batch_size: int, *, world_size: int = 1, drop_last: bool) -> int | None:
    """Return the samples that an epoch trains on over all ranks; None where that is not known, or is none.

    With drop_last each rank gives floor(n / batch_size) batches of its n = ceil(sample_count / world_size) samples:
    torch's DistributedSampler fills the shares up to equal length.

    Args:
        sample_count: Over all ranks, before any is dropped; None: not known.
        batch_size: Samples of one micro-batch of one rank.
        world_size: Ranks that train together.
        drop_last: As of the DataLoader.
    """
    if sample_count is None or not drop_last:
        return sample_count
    per_rank = -(-sample_count // world_size)
    return per_rank // batch_size * batch_size * world_size or None


def change_epoch(schedule: Any, samples: int | None, new_samples: int | None) -> Any:
    """Return the schedule with every unit that is an epoch of so many samples made one of the new number.

    What counts iterations, or epochs of another number that the user gave, stays: it is a function of samples seen.

    Args:
        schedule: One, or a tuple of them.
        samples: Of an epoch where the schedule was made; None: not known.
        new_samples: Of an epoch now; None: not known.
    """
    if samples is None or new_samples is None or samples == new_samples:
        return schedule
    if isinstance(schedule, Unit):
        is_epoch = schedule.name == "epoch" and schedule.samples == samples
        return structs.replace(schedule, samples=new_samples) if is_epoch else schedule
    if isinstance(schedule, tuple):
        return tuple(change_epoch(each, samples, new_samples) for each in schedule)
    if isinstance(schedule, msgspec.Struct):
        held = {name: getattr(schedule, name) for name in schedule.__struct_fields__}
        return structs.replace(
            schedule, **{name: change_epoch(each, samples, new_samples) for name, each in held.items()}
        )
    return schedule
