"""torch.cuda, scripted, as CUDA and c10/cuda/CUDAEvent.h document it: asynchronous work, late errors, a sticky fault.

The host's clock moves only when the host computes or waits; the device has a timeline of its own.
"""

import struct
from types import SimpleNamespace

import torch

DEVICE_SIDE_ASSERT = 710
"""cudaErrorAssert: the context is lost, and every call fails until the process ends."""


def accelerator_error(code, text):
    """What torch raises for an error of CUDA, with its code."""
    error = torch.AcceleratorError(f"CUDA error: {text}\nCUDA kernel errors might be asynchronously reported")
    error.error_code = code
    return error


class Event:
    """torch.cuda.Event."""

    def __init__(self, cuda, enable_timing):
        self._cuda, self._is_timed, self._at_s, self._device = cuda, enable_timing, None, None

    def record(self, stream=None):
        self._cuda.check()
        stream = stream or self._cuda.current_stream()
        if self._device not in {None, stream.device}:
            raise RuntimeError(f"Event device {self._device} does not match recording stream's device {stream.device}.")
        self._device = stream.device
        self._at_s = max(self._cuda.free_s[stream.device], self._cuda.host_s)

    def query(self):
        self._cuda.check()
        return self._at_s is None or self._cuda.host_s >= self._at_s

    def synchronize(self):
        self._cuda.check()
        if self._at_s is not None:
            self._cuda.host_s = max(self._cuda.host_s, self._at_s)
        self._cuda.check()

    def elapsed_time(self, other):
        if not (self._is_timed and other._is_timed):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        if not (self.query() and other.query()):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        if self._device != other._device:
            raise accelerator_error(400, "invalid resource handle")
        milliseconds = 1000 * (other._at_s - self._at_s)
        return struct.unpack("f", struct.pack("f", milliseconds))[0]  # a C float


class FakeCuda:
    """torch.cuda of a machine with two devices.

    Args:
        memory_bytes: Of each device.
    """

    OutOfMemoryError = torch.cuda.OutOfMemoryError

    def __init__(self, memory_bytes=1000):
        self.host_s = 100.0
        self.free_s = [0.0, 0.0]
        self.fault_s = None
        self.current = 0
        self.reserved_bytes = self.peak_bytes = 0
        self._memory_bytes = memory_bytes
        self._sides = {}

    def check(self):
        """Raise what the device has run into by now, and from then on for ever."""
        if self.fault_s is not None and self.host_s >= self.fault_s:
            raise accelerator_error(DEVICE_SIDE_ASSERT, "device-side assert triggered")

    def Event(self, enable_timing=False):  # noqa: N802 - torch's own name
        return Event(self, enable_timing)

    def set_device(self, device):
        self.check()
        self.current = device.index

    def current_stream(self, device=None):
        return SimpleNamespace(device=self.current if device is None else device.index)

    def get_device_properties(self, device):
        return SimpleNamespace(uuid=f"0000000{device.index}-1111-2222-3333-444444444444")

    def synchronize(self, device):
        self.host_s = max(self.host_s, self.free_s[device.index])
        self.check()

    def max_memory_reserved(self, device):
        return self.peak_bytes

    def launch(self, seconds, launch_s=0.0):
        """Queue work on the current device; the host takes launch_s for it and does not wait."""
        self.check()
        self.host_s += launch_s
        self.free_s[self.current] = max(self.free_s[self.current], self.host_s) + seconds

    def launch_assertion(self):
        """Queue a kernel that will fail when the device gets to it."""
        self.check()
        self.fault_s = max(self.free_s[self.current], self.host_s)

    def allocate(self, count):
        """Take memory of torch's allocator, which gives nothing back to CUDA."""
        self.check()
        if self.reserved_bytes + count > self._memory_bytes:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {count} bytes.")
        self.reserved_bytes += count
        self.peak_bytes = max(self.peak_bytes, self.reserved_bytes)

    def install(self, monkeypatch):
        """Put it in place of torch and of the clock in loadtune.measure.cuda."""
        stands_in = SimpleNamespace(device=torch.device, Tensor=torch.Tensor, cuda=self)
        monkeypatch.setattr("loadtune.measure.cuda.torch", stands_in)
        monkeypatch.setattr("loadtune.measure.cuda.time", SimpleNamespace(monotonic=lambda: self.host_s))


class HostTensor:
    """A tensor on the host. Pinned, its copy is queued; pageable, the host waits for it, whatever non_blocking says."""

    def __init__(self, cuda, copy_s, *, is_pinned):
        self._cuda, self._copy_s, self._is_pinned = cuda, copy_s, is_pinned

    def to(self, device, non_blocking=False):
        self._cuda.launch(self._copy_s)
        if not (self._is_pinned and non_blocking):
            self._cuda.host_s = max(self._cuda.host_s, self._cuda.free_s[device.index])
        return self
