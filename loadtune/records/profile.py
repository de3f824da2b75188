"""What a device does with a batch, as data: the file that `replay` plays and `loadtune profile` records."""

from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from loadtune.records.record import Record

PROFILE_SCHEMA_VERSION = 1
"""History: 1, the first."""


class ProfilePoint(Record, frozen=True, kw_only=True):
    """One measured (or assumed) batch size."""

    batch_size: Annotated[int, Meta(ge=1, description="Samples in the step's batch.")]
    device_s: Annotated[float, Meta(ge=0, description="Device seconds of one training step, copies apart.")]
    spread_s: Annotated[float, Meta(ge=0, description="Standard deviation of device_s from step to step.")] = 0.0
    host_cpu_s: Annotated[
        float, Meta(ge=0, description="CPU seconds the training loop itself burns a step (launches, optimizer).")
    ] = 0.0
    copy_s: Annotated[float, Meta(ge=0, description="Seconds to copy one batch to the device.")] = 0.0
    memory_bytes: Annotated[int, Meta(ge=0, description="Peak device memory at this batch size; 0: not recorded.")] = 0


class ReplayProfile(Record, frozen=True, kw_only=True):
    """A device's step times by batch size."""

    schema_version: Annotated[int, Meta(ge=1, description="Version of this file's format.")] = PROFILE_SCHEMA_VERSION
    name: Annotated[str, Meta(description="What is played, as people call it.")]
    origin: Annotated[
        Literal["measured", "estimated", "written by hand"], Meta(description="How the numbers came about.")
    ]
    run_ahead_steps: Annotated[
        int,
        Meta(ge=0, description="Steps the host may queue before it waits; 0: the step itself waits, as .item() does."),
    ] = 2
    points: Annotated[tuple[ProfilePoint, ...], Meta(min_length=1, description="One a batch size, any order.")]
    device_memory_bytes: Annotated[
        int | None, Meta(description="Memory of the profiled device; None: unbounded or unknown.")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = [point.batch_size for point in self.points]
        if not sizes or len(set(sizes)) != len(sizes) or min(sizes) < 1:
            raise ValueError(f"a profile needs at least one point and distinct positive batch sizes, not {sizes}")
        if self.run_ahead_steps < 0:
            raise ValueError("run_ahead_steps is at least 0: with 0 the host waits within its step")

    def at(self, batch_size: int) -> ProfilePoint:
        """Return the point at `batch_size`: linear between points and beyond them, never below zero.

        With one point only, time and memory are proportional to the batch.
        """
        points = sorted(self.points, key=lambda point: point.batch_size)
        if len(points) == 1:
            origin = ProfilePoint(batch_size=1, device_s=0.0)
            return _between(origin, points[0], batch_size, from_zero=True)
        low, high = points[0], points[1]
        for left, right in pairwise(points):
            low, high = left, right
            if batch_size <= right.batch_size:
                break
        return _between(low, high, batch_size)


def _between(low: ProfilePoint, high: ProfilePoint, batch_size: int, *, from_zero: bool = False) -> ProfilePoint:
    """Interpolate each quantity, also beyond the points; `from_zero` takes batch 0 with nothing to do as low end."""
    low_size = 0 if from_zero else low.batch_size
    share = (batch_size - low_size) / (high.batch_size - low_size)

    def mix(name: str) -> float:
        left, right = getattr(low, name), getattr(high, name)
        return max(0.0, float(left + share * (right - left)))

    return ProfilePoint(
        batch_size=batch_size,
        device_s=mix("device_s"),
        spread_s=mix("spread_s"),
        # The least of a few dozen launches is noisy: a fall between two points is not carried on down to nothing.
        host_cpu_s=max(mix("host_cpu_s"), high.host_cpu_s if share > 1 else 0.0),
        copy_s=mix("copy_s"),
        memory_bytes=round(mix("memory_bytes")),
    )
