"""CUDA as a device: direct torch.cuda calls on the current stream of one device, and nothing to decide.

Work is asynchronous, so an error shows late: a kernel that fails is told by whatever is called next, `is_reached` and
`wait` among it, and after a device-side assertion every call fails until the process ends. Nothing here catches that;
`is_out_of_memory` alone touches no device, so that it can be asked afterwards.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import torch

from loadtune.measure.accelerator import map_tensors

CUDA_ERROR_MEMORY_ALLOCATION = 2
"""cudaErrorMemoryAllocation: the `error_code` of torch.AcceleratorError where CUDA itself, and not torch's allocator,
was out of memory, as at the launch of a kernel that needs local memory."""

PINNING = "in pin memory thread"
"""What DataLoader writes into an exception of its pinning thread."""

_LIBRARY_OUT_OF_MEMORY = re.compile(
    # What torch raises as a plain RuntimeError, from the workspace of a library or from TorchScript.
    r"CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|CUDA out of memory"
)


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
        # Of a MIG instance it is the instance's own, which NVML knows as "MIG-...": the watcher tries both.
        self.uuid: str | None = f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
        torch.cuda.synchronize(self._device)
        self._origin = self.record()
        self._origin.synchronize()
        self._origin_s = time.monotonic()

    def upload(self, batch: Any) -> Any:
        """Queue the copy; it does not block where the batch is in pinned memory."""
        return map_tensors(batch, self._move)

    def step(self, batch: Any) -> None:
        """Queue one training step."""
        self._train_step(batch)

    def record(self) -> torch.cuda.Event:
        """Record an event on this device's current stream, whatever device a training step has made current."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
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
        """Return the most that torch's allocator has reserved; CUDA's own context comes on top of it."""
        return int(torch.cuda.max_memory_reserved(self._device))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Say whether the device's memory did not suffice, for torch's allocator, CUDA itself or one of its libraries.

        The thread that pins batches runs out of the host's memory, which CUDA tells by the same code.
        """
        if not isinstance(error, RuntimeError) or PINNING in str(error):
            return False
        is_told_by_code = getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION
        is_told_by_class = isinstance(error, torch.cuda.OutOfMemoryError)
        return is_told_by_class or is_told_by_code or _LIBRARY_OUT_OF_MEMORY.search(str(error)) is not None

    def _move(self, item: Any) -> Any:
        """Queue the copy of a tensor, or of an object that has a `.to` of its own and may take nothing but a device."""
        if isinstance(item, torch.Tensor):
            return item.to(self._device, non_blocking=True)
        try:
            return item.to(self._device, non_blocking=True)
        except TypeError:
            return item.to(self._device)
