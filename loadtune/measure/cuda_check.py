"""Does CUDA work here, and how fast are copies to a device and back? Direct torch.cuda calls, for `loadtune doctor`."""

import time
from collections.abc import Callable

import torch

from loadtune.records.messages import CopyRates, CudaChecked, CudaDevice

COPY_BYTES = 1 << 28
"""One copy: 256 MiB. Small ones measure the call: at 25 GB/s this one takes 10 ms, the call 10 us."""
COPY_S = 0.25
"""How long each kind of copy is repeated. The link of an idle GPU wakes within milliseconds; NVML must see it awake."""


def check_cuda(note_device: Callable[[str], None]) -> CudaChecked:
    """Try every device in turn.

    Args:
        note_device: Told a device's UUID just before its copies begin.
    """
    if not torch.cuda.is_available():
        return CudaChecked(reason=_find_reason())
    return CudaChecked(devices=tuple(_check(index, note_device) for index in range(torch.cuda.device_count())))


def _find_reason() -> str:
    """Return torch's own words for why there is no CUDA."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
        return _first_line(error)
    return "torch.cuda.is_available() is False"


def _check(index: int, note_device: Callable[[str], None]) -> CudaDevice:
    device = torch.device("cuda", index)
    properties = torch.cuda.get_device_properties(device)
    uuid = f"GPU-{properties.uuid}"
    try:
        square = torch.ones(64, 64, device=device)
        (square @ square).sum().item()
    except RuntimeError as error:
        failure = _first_line(error)
        return CudaDevice(index=index, name=properties.name, uuid=uuid, failure=failure, copies_reason=failure)
    try:
        copies = _measure_copies(device, lambda: note_device(uuid))
        return CudaDevice(index=index, name=properties.name, uuid=uuid, copies=copies)
    except RuntimeError as error:  # out of memory, on the device or for pinning
        return CudaDevice(index=index, name=properties.name, uuid=uuid, copies_reason=_first_line(error))


def _measure_copies(device: torch.device, note_begin: Callable[[], None]) -> CopyRates:
    """Return the rates of copies; `note_begin` is called when all memory is there and copies follow without a pause."""
    pinned = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    pageable = torch.ones(COPY_BYTES, dtype=torch.uint8)  # written: pages that never were are all the same one
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    note_begin()
    return CopyRates(
        pinned_to_device_bytes_per_s=_measure_copy(there, pinned, device),
        pageable_to_device_bytes_per_s=_measure_copy(there, pageable, device),
        pinned_to_host_bytes_per_s=_measure_copy(pinned, there, device),
    )


def _measure_copy(target: torch.Tensor, source: torch.Tensor, device: torch.device) -> float:
    """Return bytes a second over repeated copies; the first, which wakes the link, does not count."""
    with torch.cuda.device(device):
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        copies, began_s = 0, time.monotonic()
        while copies == 0 or time.monotonic() - began_s < COPY_S:
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize(device)
            copies += 1
        return copies * COPY_BYTES / (time.monotonic() - began_s)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
