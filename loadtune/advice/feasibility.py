"""Which settings cannot work here, and by what arithmetic? Shared memory, RAM, open files, cores, device memory.

Pure: limits and needs are handed in. What it refuses is not measured, so its figures err on the side of trying.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtune.records.measurement import Cause
from loadtune.records.resources import HostLimits
from loadtune.records.settings import DeviceKind, Settings

MIB, GIB = 2**20, 2**30
WORKER_BYTES = 120 * MIB
"""Memory of one forked worker beyond what it shares: decoding buffers and touched interpreter pages, as measured on
small images. Larger would refuse settings that work."""
MAIN_BYTES = {"cuda": 3 * GIB, "cpu": 1 * GIB, "replay": 512 * MIB}
"""Memory of the main process, weights and optimizer included; CUDA's context and libraries dominate there."""
ACTIVATION_BYTES_PER_PIXEL = 744 * MIB // 513**2
"""Saved activations of one DeepLabv3+ R50 image in fp32: 744 MiB at 513 px, output stride 16, measured."""
FREE_RATIO = 0.9
"""Share of what is available that may be planned with; the parent ends a trial there too."""
OPEN_FILES_BASE, OPEN_FILES_PER_WORKER = 64, 4
"""Descriptors of an idle trial, and the pipes and queue of each worker."""
BATCHES_IN_HAND = 2
"""Batches that the loop itself holds in shared memory: the one in the step, and the one before it."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a setting is not run."""

    cause: Cause
    arithmetic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the workload takes, as far as is known before it runs."""

    device: DeviceKind
    sample_bytes: int | None
    """Bytes of one collated sample."""
    tensors_per_batch: int = 2
    activation_bytes_per_sample: int = 0
    """Host memory that one sample's training step takes; 0 off the CPU, or where the model is the user's."""
    worker_bytes: int = WORKER_BYTES
    worker_cores: float = 1.0
    """Cores that one worker keeps busy."""
    device_memory_bytes: int | None = None
    device_points: Mapping[int, int] = field(default_factory=dict)
    """Batch size to peak device memory, as measured so far."""


def find_obstacle(settings: Settings, limits: HostLimits, needs: Needs) -> Obstacle | None:
    """Return what makes a setting impossible here, or None."""
    batch_bytes = None if needs.sample_bytes is None else needs.sample_bytes * settings.batch_size
    return (
        _shared_memory(settings, limits, batch_bytes)
        or _open_files(settings, limits, needs)
        or _host_memory(settings, limits, needs, batch_bytes)
        or _cores(settings, limits, needs)
        or _device_memory(settings, needs)
    )


def shm_size_bytes(settings: Settings, sample_bytes: int) -> int:
    """Return the /dev/shm that a setting fills at most."""
    in_flight = settings.batches_in_flight + BATCHES_IN_HAND if settings.num_workers else 0
    return in_flight * settings.batch_size * sample_bytes


def main_threads(settings: Settings, usable_cores: float) -> int:
    """Return the main process's threads on device cpu: the cores that workers leave, at least one.

    One core is left to the loader or the system even without workers: an OpenMP team that loses a core to anything
    else spins for it, and a step of 0.3 s took 9 s.
    """
    return max(1, int(usable_cores) - max(1, settings.num_workers))


def _shared_memory(settings: Settings, limits: HostLimits, batch_bytes: int | None) -> Obstacle | None:
    free = limits.shm_free_bytes
    if not settings.num_workers or batch_bytes is None or free is None:
        return None
    count = settings.batches_in_flight + BATCHES_IN_HAND
    if count * batch_bytes <= free:
        return None
    told = (
        f"{count} batches in flight x {_size(batch_bytes)} = {_size(count * batch_bytes)} of shared memory, "
        f"/dev/shm has {_size(free)} free"
    )
    return Obstacle(Cause.SHARED_MEMORY, told)


def _open_files(settings: Settings, limits: HostLimits, needs: Needs) -> Obstacle | None:
    limit = limits.open_files_limit
    if not settings.num_workers or limit is None:
        return None
    tensors = (settings.batches_in_flight + BATCHES_IN_HAND) * needs.tensors_per_batch
    pipes = OPEN_FILES_BASE + OPEN_FILES_PER_WORKER * settings.num_workers
    if tensors + pipes <= limit:
        return None
    told = f"{tensors} tensors in flight + {pipes} pipes = {tensors + pipes} open files, the limit is {limit}"
    return Obstacle(Cause.OPEN_FILES, told)


def _host_memory(settings: Settings, limits: HostLimits, needs: Needs, batch_bytes: int | None) -> Obstacle | None:
    main = MAIN_BYTES[needs.device] + needs.activation_bytes_per_sample * settings.batch_size
    workers = settings.num_workers * needs.worker_bytes
    flight = (settings.batches_in_flight + BATCHES_IN_HAND) * (batch_bytes or 0)
    allowed = int(FREE_RATIO * limits.memory_available_bytes)
    if main + workers + flight <= allowed:
        return None
    told = (
        f"main process {_size(main)} + {settings.num_workers} workers {_size(workers)} + batches in flight "
        f"{_size(flight)} = {_size(main + workers + flight)} of RAM, {_size(allowed)} may be used"
    )
    return Obstacle(Cause.HOST_MEMORY, told)


def _cores(settings: Settings, limits: HostLimits, needs: Needs) -> Obstacle | None:
    """On device cpu the training needs the cores too."""
    if needs.device != "cpu" or not settings.num_workers:
        return None
    threads = settings.main_threads or main_threads(settings, limits.usable_cores)
    busy = threads + settings.num_workers * needs.worker_cores
    if busy <= limits.usable_cores + 1e-9:
        return None
    told = (
        f"{threads} training thread + {settings.num_workers} workers x {needs.worker_cores:.2g} cores = {busy:.2g} "
        f"cores, {limits.usable_cores:g} are usable"
    )
    return Obstacle(Cause.CORES, told)


def _device_memory(settings: Settings, needs: Needs) -> Obstacle | None:
    """Two measured batch sizes give m0 + m1 * B; with fewer nothing is predicted, since running out is survived."""
    if needs.device_memory_bytes is None or len(needs.device_points) < 2:
        return None
    (small, low), *_, (large, high) = sorted(needs.device_points.items())
    per_sample = (high - low) / (large - small)
    predicted = int(high + per_sample * (settings.batch_size - large))
    if settings.batch_size <= large or predicted <= needs.device_memory_bytes:
        return None
    told = (
        f"{_size(high)} at batch {large} + {settings.batch_size - large} x {_size(int(per_sample))} = "
        f"{_size(predicted)} of device memory, the device has {_size(needs.device_memory_bytes)}"
    )
    return Obstacle(Cause.DEVICE_MEMORY, told)


def _size(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
