"""What is each world of `tuning` trained on, what may be chosen there, and behind which limit does it run?"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks.tuning_places import Place
from benchmarks.tuning_worlds import MIB, WORLDS, Draw, drawing, small_shm_sample
from loadtune.options import profile_from_step_time
from loadtune.records.profile import ProfilePoint, ReplayProfile

Point = tuple[int, int]
"""num_workers and batch_size."""

TUNING_SEEDS, SEEDS, SIMULATED_SEED = (0, 1), (403, 404), 302
"""Thresholds are set on the first, and never scored. The others are scored: live, and the third in simulation. Live
seeds 100 and 402, and 102 to 131 and 202 to 231 of the simulation, were looked at before the search was changed: they
are scored no more, and their rows stay in the record."""
VERSION = 1
"""Of the worlds, their devices and places: raise it when one changes. Rows of another version are dropped when read."""
WORKERS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The oracle's: the steps of the product's own ladder, up to what people try."""
BATCH = 16
BATCHES, WORKERS_BOTH = (16, 32, 64, 128), (0, 1, 2, 4, 8, 16)
"""Where both axes are free: fewer worker counts, so that the grid takes no longer than twice that of one axis."""

STEP_S = {
    "network": (0.006, 0.02),
    "mixed": (0.01, 0.03),
    "photographs": (0.03, 0.06),
    "served_photographs": (0.02, 0.05),
    "png_pairs": (0.006, 0.012),
    "heavy_tail": (0.006, 0.012),
    "device_bound": (0.05, 0.09),
    "held_memory": (0.008, 0.02),
    "quota": (0.02, 0.04),
    "main_process": (0.004, 0.01),
    "large_tensors": (0.015, 0.03),
    "short_epoch": (0.006, 0.012),
    "shards": (0.004, 0.008),
    "in_memory": (0.004, 0.01),
}
"""Bounds of the replayed device's seconds a step at `BATCH`."""

FEEDING_WORKERS = {"small_shm": (4.6, 5.8)}
"""Instead, where it matters which step of the ladder feeds the device: how many workers do. A full queue is what fills
/dev/shm, and only a device that is fed has one."""

LINES_S = {
    "network_both": ((0.008, 0.015), (0.0002, 0.0004)),
    "photographs_both": ((0.03, 0.05), (0.0012, 0.002)),
    "in_memory_both": ((0.004, 0.01), (0.00005, 0.0001)),
}
"""Where both axes are free: bounds of a and b in a + b B, seconds of a step at batch size B."""
LARGEST_FITS = {"in_memory_both": 64}
"""Worlds whose device runs out of memory above this batch size."""
SAMPLE_DEVICE_BYTES = 2**20
"""Device memory a sample, where the device has a limit. Only the ratio to the limit counts."""

SHM_BATCHES = 14.2
"""Batches that the small /dev/shm holds: the 14 of 6 workers (2 each, 2 in hand), and not those of 8."""

PLACES: dict[str, Callable[[Draw], Place]] = {
    "held_memory": lambda draw: Place(memory_bytes=int(draw("limit", 4.2, 5.2) * 1024) * MIB),
    "small_shm": lambda draw: Place(shm_bytes=int(SHM_BATCHES * BATCH * small_shm_sample(draw)[1])),
    "quota": lambda draw: Place(cores=round(draw("cores", 0.8, 1.4), 2)),
}
"""Worlds that need a limit of their own. A loader of 32 workers, and the search itself, want about 2 GiB of memory."""

WAITING = ("network", "heavy_tail", "shards", "device_bound")
"""Worlds that wait or are device-bound: their rates hardly vary, so every comparison must be decided."""


def is_both(world: str) -> bool:
    """Say whether the batch size may be chosen too."""
    return world in LINES_S


def grid(world: str) -> list[Point]:
    """Return the settings that the oracle measures, in rising order."""
    if is_both(world):
        return [(workers, batch) for batch in BATCHES for workers in WORKERS_BOTH]
    return [(workers, BATCH) for workers in WORKERS]


def batches(world: str) -> tuple[int, ...]:
    """Return the batch sizes that may be chosen, the user's own first."""
    return BATCHES if is_both(world) else (BATCH,)


def place(world: str, seed: int) -> Place:
    """Return where a world runs."""
    return PLACES[world](drawing(seed)) if world in PLACES else Place()


def profile(world: str, seed: int) -> ReplayProfile:
    """Return the device that a world is trained on."""
    draw = drawing(seed)
    if world in FEEDING_WORKERS:
        return profile_from_step_time(
            BATCH * small_shm_sample(draw)[0] / draw("feeding", *FEEDING_WORKERS[world]), BATCH
        )
    if not is_both(world):
        return profile_from_step_time(draw(f"{world} step", *STEP_S[world]), BATCH)
    fixed, per_sample = LINES_S[world]
    fixed_s, sample_s = draw(f"{world} fixed", *fixed), draw(f"{world} sample", *per_sample)
    points = []
    for batch in BATCHES:
        step_s = fixed_s + sample_s * batch
        host_cpu_s = profile_from_step_time(step_s, batch).points[0].host_cpu_s
        memory_bytes = SAMPLE_DEVICE_BYTES * batch
        points.append(ProfilePoint(batch_size=batch, device_s=step_s, host_cpu_s=host_cpu_s, memory_bytes=memory_bytes))
    fits = LARGEST_FITS.get(world)
    return ReplayProfile(
        name=f"{1000 * fixed_s:.3g} ms + {1e6 * sample_s:.3g} us a sample",
        origin="written by hand",
        points=tuple(points),
        device_memory_bytes=None if fits is None else SAMPLE_DEVICE_BYTES * fits,
    )


def device_rate(world: str, seed: int, batch: int) -> float:
    """Return samples a second of the device alone; 0 where the batch does not fit."""
    device = profile(world, seed)
    point = device.at(batch)
    limit = device.device_memory_bytes
    return 0.0 if limit is not None and point.memory_bytes > limit else batch / point.device_s


def write_profile(world: str, seed: int, path: Path) -> None:
    """Write the device as `loadtune probe --device replay:FILE` reads it."""
    path.write_bytes(msgspec.json.encode(profile(world, seed)))


# A world without a device would be found out hours later.
assert set(WORLDS) == set(STEP_S) | set(LINES_S) | set(FEEDING_WORKERS)
