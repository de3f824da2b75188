"""What is said of CUDA itself: whether it works, in which order it counts, how fast the bus is, why it is not there."""

from dataclasses import replace

import msgspec
import pytest

from loadtune.doctor.cuda_checks import (
    COPY_MIN_RATIO,
    CUDA_CHECKS,
    DEVICE_CHECKS,
    LANE_BYTES_PER_S,
    computes,
    copy_rates,
    cuda,
    device_order,
    link,
    without_cuda,
)
from loadtune.doctor.readings import Cuda
from loadtune.monitor.gpu_inspection import Link
from loadtune.records.diagnosis import Severity
from loadtune.records.messages import CudaChecked
from tests.machines import CUDA, CUDA_DEVICE, GPU, NO_CUDA, NO_DRIVER, RATES, UUID, driver, healthy

OK, UNKNOWN, NOTE, WARNING, ERROR = Severity
CEILING = LANE_BYTES_PER_S[5] * 16


def with_link(now: Link | None):
    return healthy(cuda=replace(CUDA, links={} if now is None else {UUID: now}))


def test_healthy_cuda_is_fine() -> None:
    """And a computation that ran is not mentioned."""
    lines = [check(healthy()) for check in CUDA_CHECKS] + [check(healthy(), CUDA_DEVICE) for check in DEVICE_CHECKS]
    assert [line.severity for line in lines if line is not None] == [OK] * 4
    assert without_cuda(healthy()) == ()


def test_nothing_is_said_where_cuda_was_not_asked_for() -> None:
    """Without --gpu."""
    plain = healthy(cuda=None)
    assert [check(plain) for check in CUDA_CHECKS] == [None, None]
    assert without_cuda(plain) == ()


def test_without_a_gpu_each_line_says_why_it_is_skipped() -> None:
    """torch's own words."""
    lonely = healthy(cuda=NO_CUDA, driver=NO_DRIVER)
    lines = [*(check(lonely) for check in CUDA_CHECKS), *without_cuda(lonely)]
    assert [line.severity for line in lines if line is not None] == [UNKNOWN] * 4
    assert {line.reason for line in lines if line is not None} == {"no CUDA: Found no NVIDIA driver on your system"}


def test_no_cuda_beside_a_gpu_is_an_error() -> None:
    """The driver lists what torch does not find."""
    line = cuda(healthy(cuda=NO_CUDA))
    assert line is not None
    assert line.severity is ERROR
    assert GPU.info.name in (line.why or "")


def test_a_torch_that_cannot_be_imported_is_an_error_told_once() -> None:
    """The other lines would only repeat it."""
    broken = healthy(cuda=Cuda(failure="RuntimeError: operator torchvision::nms does not exist"))
    line = cuda(broken)
    assert line is not None
    assert line.severity is ERROR
    assert "nms does not exist" in (line.found or "")
    assert device_order(broken) is None
    assert without_cuda(broken) == ()


@pytest.mark.parametrize(
    ("mine", "nvml", "severity", "said"),
    [
        ((0, 1), (0, 1), OK, "cuda:0 is GPU 0, cuda:1 is GPU 1"),
        ((0, 1), (1, 0), NOTE, "cuda:0 is GPU 1, cuda:1 is GPU 0"),
        ((0,), (3,), NOTE, "cuda:0 is GPU 3"),
        ((0, 1), (0, None), NOTE, "cuda:1 is GPU ?"),
        ((0, 1), (None, None), UNKNOWN, "MIG"),
    ],
)
def test_device_order_is_told_by_uuid(mine, nvml, severity, said) -> None:
    """Both name the same GPU the same."""
    devices = tuple(msgspec.structs.replace(CUDA_DEVICE, index=index, uuid=f"GPU-{index}") for index in mine)
    gpus = tuple(
        replace(GPU, index=index, info=msgspec.structs.replace(GPU.info, uuid=f"GPU-{cuda_index}"))
        for cuda_index, index in zip(mine, nvml, strict=True)
        if index is not None
    )
    found = replace(driver(gpus=gpus), cuda=Cuda(checked=CudaChecked(devices=devices)))
    line = device_order(found)
    assert line is not None
    assert line.severity is severity
    assert said in f"{line.found} {line.reason}"


def test_a_computation_that_fails_is_an_error() -> None:
    """A torch without kernels for this GPU imports, finds it, and fails at the first step."""
    failed = msgspec.structs.replace(
        CUDA_DEVICE, failure="no kernel image is available", copies=None, copies_reason="no kernel image is available"
    )
    line = computes(healthy(), failed)
    assert line is not None
    assert line.severity is ERROR
    assert link(healthy(), failed).severity is UNKNOWN
    assert copy_rates(healthy(), failed).severity is UNKNOWN


@pytest.mark.parametrize(
    ("now", "severity"),
    [
        (Link(5, 16), OK),
        (Link(5, 8), WARNING),
        (Link(4, 16), WARNING),
        (Link(6, 16), OK),
        (None, UNKNOWN),
    ],
)
def test_a_link_that_is_narrower_or_slower_under_load_is_warned_of(now, severity) -> None:
    """Idle, its speed drops; so it is read while copies run."""
    assert link(with_link(now), CUDA_DEVICE).severity is severity


@pytest.mark.parametrize(
    ("pinned", "now", "severity"),
    [
        (COPY_MIN_RATIO * CEILING, Link(5, 16), OK),
        (COPY_MIN_RATIO * CEILING - 1, Link(5, 16), WARNING),
        (1e9, None, OK),
        (1e9, Link(9, 16), OK),
    ],
)
def test_copies_are_judged_by_what_their_link_carries(pinned, now, severity) -> None:
    """Without the link, the rates are told and not judged."""
    rates = msgspec.structs.replace(RATES, pinned_to_device_bytes_per_s=pinned)
    line = copy_rates(with_link(now), msgspec.structs.replace(CUDA_DEVICE, copies=rates))
    assert line.severity is severity
    assert "GB/s from pinned memory" in (line.found or "")


def test_lines_bear_the_index_of_nvml() -> None:
    """As those of the driver do, so that one GPU has one number."""
    third = replace(GPU, index=3)
    assert link(driver(gpus=(third,)), CUDA_DEVICE).gpu == 3
    assert copy_rates(healthy(driver=NO_DRIVER), CUDA_DEVICE).gpu == 0
