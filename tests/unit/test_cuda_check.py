"""Trying CUDA, against a played torch.cuda: devices that work, one without kernels, one that is full, and none."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from loadtune.measure import cuda_check
from loadtune.measure.cuda_check import check_cuda


def test_without_cuda_torch_s_own_words_are_the_reason(monkeypatch):
    """Its first line; an assertion where torch was built without CUDA."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def refuse(error):
        def init():
            raise error

        return init

    noted = []
    monkeypatch.setattr(torch.cuda, "init", refuse(RuntimeError("Found no NVIDIA driver.\nPlease check.")))
    assert check_cuda(noted.append).reason == "Found no NVIDIA driver."
    monkeypatch.setattr(torch.cuda, "init", refuse(AssertionError("Torch not compiled with CUDA enabled")))
    assert check_cuda(noted.append).reason == "Torch not compiled with CUDA enabled"
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    found = check_cuda(noted.append)
    assert (found.reason, found.devices) == ("torch.cuda.is_available() is False", ())
    assert noted == []


@pytest.fixture
def devices(monkeypatch):
    """Three devices, all of them the CPU in truth."""
    real_device, real_ones = torch.device, torch.ones
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(name=f"GPU {device}", uuid=f"{device}-uuid")
    )
    monkeypatch.setattr(cuda_check.torch, "device", lambda kind, index: index)

    def ones(*size, device=None, **options):
        if device == 1:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nhint")
        return real_ones(*size, device=real_device("cpu"), **options)

    monkeypatch.setattr(cuda_check.torch, "ones", ones)


def test_every_device_is_tried_for_itself(devices, monkeypatch):
    """One without kernels and one without memory do not keep the others from being tried; links are read in between."""
    noted = []

    def copies(device, note_begin):
        if device == 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 256.00 MiB.")
        note_begin()
        return cuda_check.CopyRates(
            pinned_to_device_bytes_per_s=3.0, pageable_to_device_bytes_per_s=2.0, pinned_to_host_bytes_per_s=1.0
        )

    monkeypatch.setattr(cuda_check, "_measure_copies", copies)
    found = check_cuda(noted.append).devices
    assert [device.uuid for device in found] == ["GPU-0-uuid", "GPU-1-uuid", "GPU-2-uuid"]
    assert noted == ["GPU-0-uuid"]
    assert found[0].copies is not None
    assert found[1].failure == "CUDA error: no kernel image is available for execution on the device"
    assert (found[2].failure, found[2].copies) == (None, None)
    assert "out of memory" in found[2].copies_reason


def test_a_rate_is_of_all_copies_but_the_first(monkeypatch):
    """Two within the time, over 0.4 s by a played clock; the one before them wakes the link."""
    copied, times = [], iter([10.0, 10.1, 10.3, 10.4])
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(cuda_check.time, "monotonic", lambda: next(times))
    target = SimpleNamespace(copy_=lambda source, non_blocking: copied.append((source, non_blocking)))
    rate = cuda_check._measure_copy(target, "source", "device")
    assert rate == pytest.approx(2 * cuda_check.COPY_BYTES / 0.4)
    assert copied == [("source", True)] * 3


@pytest.mark.gpu
def test_this_gpu_copies_at_a_rate_of_this_world():
    """Pinned memory is not slower than ordinary memory, and no bus carries a terabyte a second."""
    noted = []
    found = check_cuda(noted.append)
    assert found.reason is None
    for device in found.devices:
        assert device.failure is None
        assert device.copies is not None
        rates = device.copies
        assert rates.pageable_to_device_bytes_per_s > 1e8
        assert rates.pageable_to_device_bytes_per_s < 1.2 * rates.pinned_to_device_bytes_per_s < 1e12
    assert noted == [device.uuid for device in found.devices]
