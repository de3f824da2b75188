"""What do the layers above rely on in a device? One contract, kept by CPU, replay and CUDA, as scripted and as real.

The scripted CUDA is as asynchronous as the documented one: nothing waits, errors show late, and a device-side assertion
is for good. The real one is asked where there is one.
"""

import subprocess
import sys
import time
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loadtune.engine.failures import classify_exception
from loadtune.measure.accelerator import Timeline, stall_ratio
from loadtune.measure.cpu import CpuAccelerator
from loadtune.measure.cuda import CudaAccelerator
from loadtune.measure.replay import ReplayAccelerator
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.profile import ProfilePoint, ReplayProfile
from tests.fake_cuda import DEVICE_SIDE_ASSERT, FakeCuda, HostTensor, accelerator_error

LONG_S = 60.0
"""Of a step that is queued and never waited for, on devices whose time is real."""


@dataclass
class Made:
    """A device for the contract."""

    device: Any
    batch: Any
    is_asynchronous: bool
    now_s: Any = time.monotonic
    run_out: Any = None
    """Asks the device for more memory than it has; None: its memory is not its own."""


def replay(memory_bytes=None, device_s=LONG_S):
    points = (ProfilePoint(batch_size=8, device_s=device_s, memory_bytes=800),)
    profile = ReplayProfile(name="x", origin="by hand", points=points, device_memory_bytes=memory_bytes)
    return ReplayAccelerator(profile, 8, seed=0)


def make_replay(monkeypatch):
    short = replay(799)
    return Made(replay(), "batch", is_asynchronous=True, run_out=lambda: short.upload("batch"))


def make_cpu(monkeypatch):
    return Made(CpuAccelerator(lambda batch: None), "batch", is_asynchronous=False)


def make_fake_cuda(monkeypatch):
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    device = CudaAccelerator(lambda batch: cuda.launch(1.0), 0)
    batch = HostTensor(cuda, 0.25, is_pinned=True)
    return Made(device, batch, is_asynchronous=True, now_s=lambda: cuda.host_s, run_out=lambda: cuda.allocate(2000))


def make_cuda(monkeypatch):
    device = CudaAccelerator(lambda batch: torch.cuda._sleep(200_000_000), 0)
    too_much = 8 * torch.cuda.get_device_properties(0).total_memory
    return Made(
        device,
        torch.ones(8).pin_memory(),
        is_asynchronous=True,
        run_out=lambda: torch.empty(too_much, dtype=torch.uint8, device="cuda"),
    )


@pytest.fixture(
    params=[
        pytest.param(make_cpu, id="cpu"),
        pytest.param(make_replay, id="replay"),
        pytest.param(make_fake_cuda, id="scripted-cuda"),
        pytest.param(make_cuda, id="cuda", marks=pytest.mark.gpu),
    ]
)
def made(request, monkeypatch):
    return request.param(monkeypatch)


def test_queueing_and_asking_never_wait_for_the_device(made):
    """A mark lies ahead until the device gets there, and asking about it does not change that."""
    before_s = made.now_s()
    made.device.step(made.device.upload(made.batch))
    mark = made.device.record()
    is_reached = [made.device.is_reached(mark) for _ in range(3)]
    assert is_reached == [not made.is_asynchronous] * 3
    assert made.now_s() - before_s < LONG_S / 2


def test_a_mark_s_time_lies_between_its_recording_and_its_being_seen(made):
    """On the host's clock, and an earlier mark's is no later."""
    before_s = made.now_s()
    first, second = made.device.record(), made.device.record()
    made.device.wait(second)
    times = [made.device.monotonic_s(mark) for mark in (first, second)]
    assert before_s - 0.001 <= times[0] <= times[1] <= made.now_s() + 0.001
    made.device.wait(first)  # again, and out of order
    assert made.device.is_reached(first)


def test_running_out_of_memory_is_told_and_harms_nothing(made):
    """The device says so, and goes on: a smaller batch may follow in the same process."""
    if made.run_out is None:
        assert made.device.peak_memory_bytes() is None
        return
    with pytest.raises(RuntimeError) as raised:
        made.run_out()
    assert made.device.is_out_of_memory(raised.value)
    found = classify_exception(raised.value, is_device_memory=made.device.is_out_of_memory(raised.value))
    assert (found.state, found.cause) == (TrialState.OUT_OF_MEMORY, Cause.DEVICE_MEMORY)
    mark = made.device.record()
    made.device.wait(mark)
    assert made.device.is_reached(mark)


@pytest.mark.parametrize(
    "error", [ValueError("x"), MemoryError(), RuntimeError("size mismatch"), KeyboardInterrupt(), OSError(12, "memory")]
)
def test_nothing_else_is_out_of_device_memory(made, error):
    """Host memory is told apart elsewhere."""
    assert not made.device.is_out_of_memory(error)


def test_the_peak_never_falls(made):
    """It is what decides whether a batch fits."""
    peaks = [made.device.peak_memory_bytes()]
    made.device.step(made.device.upload(made.batch))
    peaks.append(made.device.peak_memory_bytes())
    known = [peak for peak in peaks if peak is not None]
    assert known == sorted(known)
    assert len(known) in {0, 2}


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


def batch_of(cuda, copy_s=0.25, *, is_pinned=True):
    return HostTensor(cuda, copy_s, is_pinned=is_pinned)


def test_a_pinned_copy_is_queued_and_a_pageable_one_holds_the_host(cuda):
    """Either way the marks show it as copying."""
    for is_pinned, host_s in ((True, 0.0), (False, 0.25)):
        timeline = Timeline(CudaAccelerator(lambda batch: cuda.launch(1.0), 0))
        before_s = cuda.host_s
        timeline.queue(batch_of(cuda, is_pinned=is_pinned), 8, 0.0)
        assert cuda.host_s - before_s == pytest.approx(host_s)
        (step,) = timeline.drain()
        assert (step.copy_s, step.compute_s) == (pytest.approx(0.25, rel=1e-5), pytest.approx(1.0, rel=1e-5))


def test_a_loader_that_is_late_shows_as_idle_and_one_in_time_does_not(cuda):
    """The host's own waiting counts for nothing: the device's gaps do."""
    timeline = Timeline(CudaAccelerator(lambda batch: cuda.launch(1.0, launch_s=0.01), 0))
    steps = []
    for late_s in (0.0, 0.0, 0.0, 3.0, 3.0):
        cuda.host_s += late_s
        timeline.queue(batch_of(cuda, 0.0), 8, late_s)
        steps += timeline.finished()
    steps += timeline.drain()
    # Three steps of 1 s are queued by 0.03 s. The fourth comes at 3.03 s, as the third ends; the fifth at 6.04 s.
    assert [step.idle_s for step in steps[1:]] == pytest.approx([0.0, 0.0, 0.02, 2.0], abs=0.02)
    assert stall_ratio(steps, 0.0) == pytest.approx(2.0 / 6.05, abs=0.01)


def test_a_mark_that_is_not_reached_cannot_be_read(cuda):
    """CUDA refuses, so a layer that reads too early fails in every test and not once in a while."""
    device = CudaAccelerator(lambda batch: cuda.launch(1.0), 0)
    device.step(None)
    with pytest.raises(RuntimeError, match="must be completed"):
        device.monotonic_s(device.record())


def test_time_stays_exact_to_some_microseconds_for_as_long_as_a_leg_lasts(cuda):
    """Event times are C floats of milliseconds."""
    device = CudaAccelerator(lambda batch: cuda.launch(1e-3), 0)
    for passed_s in (0.0, 1.0, 10.0, 88.999):
        cuda.host_s += passed_s
        device.step(None)
        mark = device.record()
        device.wait(mark)
        assert device.monotonic_s(mark) == pytest.approx(cuda.host_s, abs=8e-6)


def test_marks_stay_on_their_own_device_whatever_a_step_makes_current(cuda):
    """A step that switches to another device and does not switch back would mix two timelines."""

    def step(batch):
        cuda.launch(1.0)
        cuda.current = 1

    device = CudaAccelerator(step, 0)
    timeline = Timeline(device)
    timeline.queue(batch_of(cuda), 8, 0.0)
    (first,) = timeline.drain()
    assert first.compute_s == pytest.approx(1.0, rel=1e-5)


def test_a_failing_kernel_is_told_by_whatever_is_called_next(cuda):
    """The step itself returns; the loop's next look at the device raises, and so does every later one."""
    device = CudaAccelerator(lambda batch: cuda.launch_assertion(), 0)
    timeline = Timeline(device)
    cuda.launch(1.0)
    timeline.queue(batch_of(cuda), 8, 0.0)
    assert list(timeline.finished()) == []
    cuda.host_s += 2.0
    for _ in range(3):
        with pytest.raises(torch.AcceleratorError, match="device-side assert"):
            list(timeline.finished())
        with pytest.raises(torch.AcceleratorError, match="device-side assert"):
            timeline.queue(batch_of(cuda), 8, 0.0)
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        list(timeline.drain())
    with pytest.raises(torch.AcceleratorError, match="device-side assert"):
        CudaAccelerator(lambda batch: None, 0)


def test_waiting_for_a_failing_kernel_raises_and_does_not_hang(cuda):
    """As warm-up does."""
    device = CudaAccelerator(lambda batch: cuda.launch_assertion(), 0)
    cuda.launch(1.0)
    device.step(None)
    mark = device.record()
    with pytest.raises(torch.AcceleratorError):
        device.wait(mark)


def test_a_poisoned_context_can_still_be_asked_what_an_error_means(cuda):
    """The trial process tells its end without touching the device: the user's code is named, not the memory."""
    device = CudaAccelerator(lambda batch: None, 0)
    cuda.launch_assertion()
    error = accelerator_error(DEVICE_SIDE_ASSERT, "device-side assert triggered")
    assert not device.is_out_of_memory(error)
    assert device.uuid == "GPU-00000000-1111-2222-3333-444444444444"
    found = classify_exception(error, is_device_memory=device.is_out_of_memory(error))
    assert (found.state, found.cause) == (TrialState.FAILED, Cause.USER_CODE)
    assert found.message == "AcceleratorError: CUDA error: device-side assert triggered"


@pytest.mark.parametrize(
    ("error", "is_device_s"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (accelerator_error(2, "out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), True),  # as TorchScript raises it
        (accelerator_error(700, "an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("Caught AcceleratorError in pin memory thread for device 0.\nCUDA error: out of memory"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_every_way_to_run_out_of_device_memory_is_known(cuda, error, is_device_s):
    """By class, by code, and by the words of a library; an illegal access is none, nor is pinning the host's memory."""
    assert CudaAccelerator(lambda batch: None, 0).is_out_of_memory(error) == is_device_s


def test_pinned_memory_that_runs_out_is_the_host_s():
    """CUDA tells it by the code of its own memory; DataLoader says in which thread it was."""
    text = "Caught AcceleratorError in pin memory thread for device 0.\nOriginal Traceback:\nCUDA error: out of memory"
    found = classify_exception(RuntimeError(text), is_device_memory=False)
    assert (found.state, found.cause) == (TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY)


class DeviceOnly:
    """A batch whose `.to` takes nothing but a device, as torchvision's ImageList does."""

    def __init__(self):
        self.moved = None

    def to(self, device):
        self.moved = device
        return self


def test_a_batch_class_of_the_user_s_own_is_moved_by_its_own_to(cuda):
    """With non_blocking where it takes that, and without where it does not."""
    device = CudaAccelerator(lambda batch: None, 0)
    own = DeviceOnly()
    assert device.upload({"own": own})["own"] is own
    assert own.moved == torch.device("cuda", 0)


def test_mappings_keep_their_class_on_the_way(cuda):
    """As DataLoader's pin_memory keeps it; one that cannot be copied becomes a dict."""

    class Fixed(UserDict):
        def __copy__(self):
            raise TypeError("no copies")

    device = CudaAccelerator(lambda batch: None, 0)
    tensor = batch_of(cuda)
    for batch in (OrderedDict(x=tensor), UserDict(x=[tensor])):
        moved = device.upload(batch)
        assert type(moved) is type(batch)
        assert moved is not batch
        assert list(moved) == ["x"]
    assert type(device.upload(Fixed(x=tensor))) is dict


@pytest.mark.gpu
def test_a_real_device_side_assertion_shows_late_and_stays():
    """In a process of its own, which it poisons."""
    code = """
import torch
from loadtune.measure.accelerator import Timeline
from loadtune.measure.cuda import CudaAccelerator
from loadtune.engine.failures import classify_exception
table = torch.zeros(4, device="cuda")
device = CudaAccelerator(lambda index: table[index], 0)
timeline = Timeline(device)
timeline.queue(torch.tensor([9]), 1, 0.0)
seen = []
for _ in range(2):
    try:
        list(timeline.drain())
    except torch.AcceleratorError as error:
        seen.append((error.error_code, device.is_out_of_memory(error)))
        told = classify_exception(error, is_device_memory=device.is_out_of_memory(error))
assert seen == [(710, False)] * 2, seen
assert told.cause.value == "user code", told
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_the_real_device_is_known_to_its_driver():
    """Torch's UUID leads NVML to the same GPU."""
    from loadtune.monitor.nvml import Nvml

    device = CudaAccelerator(lambda batch: None, 0)
    nvml = Nvml.open()
    reader = nvml.device(device.uuid)
    assert reader is not None, nvml.refusal
    assert reader.read_state().memory_bytes > 0
    reader.close()
    nvml.close()


def test_the_scripted_device_refuses_what_cuda_refuses():
    """So that the contract rests on documented behaviour: untimed events, and events of two devices."""
    cuda = FakeCuda()
    timed, untimed, other = cuda.Event(enable_timing=True), cuda.Event(), cuda.Event(enable_timing=True)
    for event in (timed, untimed):
        event.record()
    other.record(SimpleNamespace(device=1))
    with pytest.raises(ValueError, match="enable_timing"):
        timed.elapsed_time(untimed)
    with pytest.raises(torch.AcceleratorError, match="invalid resource handle"):
        timed.elapsed_time(other)
    with pytest.raises(RuntimeError, match="does not match"):
        other.record(SimpleNamespace(device=0))
