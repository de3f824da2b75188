"""CUDA as a device: direct torch.cuda calls on the current stream, and nothing to decide."""

import time
from collections.abc import Callable
from typing import Any

import torch

from loadtune.measure.accelerator import map_tensors


class CudaAccelerator:
    """Trains on one CUDA device. Work is queued and events are read late, as a plain loop without `.item()` does.

    `elapsed_time` counts from an event recorded after the one synchronisation in the constructor; its float32
    milliseconds resolve 8 us after 100 s, the longest leg.
    """

    run_ahead_steps: int | None = None

    def __init__(self, train_step: Callable[[Any], None], index: int) -> None:
        self._train_step = train_step
        self._device = torch.device("cuda", index)
        torch.cuda.set_device(self._device)
        self.uuid: str | None = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        self._origin = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self._device)
        self._origin.record()
        self._origin.synchronize()
        self._origin_s = time.monotonic()

    def upload(self, batch: Any) -> Any:
        """Queue the copy; it does not block where the batch is in pinned memory."""
        return map_tensors(batch, lambda item: item.to(self._device, non_blocking=True))

    def step(self, batch: Any) -> None:
        """Queue one training step."""
        self._train_step(batch)

    def record(self) -> torch.cuda.Event:
        """Record an event on the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def is_reached(self, mark: torch.cuda.Event) -> bool:
        """Query the event."""
        return bool(mark.query())

    def wait(self, mark: torch.cuda.Event) -> None:
        """Block until the event has happened."""
        mark.synchronize()

    def monotonic_s(self, mark: torch.cuda.Event) -> float:
        """Return the event's time, counted from the origin event."""
        return self._origin_s + float(self._origin.elapsed_time(mark)) / 1000.0

    def peak_memory_bytes(self) -> int | None:
        """Return the most that torch's allocator has reserved: what decides whether a batch fits."""
        return int(torch.cuda.max_memory_reserved(self._device))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Say whether the allocator gave up."""
        return isinstance(error, torch.cuda.OutOfMemoryError)
