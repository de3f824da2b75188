"""What is said of installed packages: builds, pairs, conflicts and decoders."""

from dataclasses import replace

import pytest

from loadtune.doctor.readings import Requirement
from loadtune.doctor.software_checks import (
    SOFTWARE_CHECKS,
    conflicts,
    cuda_build,
    decoders,
    pillow,
    requirements,
    torch,
    torch_torchvision,
    torchvision_image,
)
from loadtune.monitor.installed import Build, ImageExtension, Pillow
from loadtune.records.diagnosis import Severity
from tests.machines import DRIVER, NO_DRIVER, SOFTWARE, healthy, software

OK, UNKNOWN, NOTE, WARNING, ERROR = Severity


def test_healthy_software_is_fine() -> None:
    """A line each."""
    lines = [check(healthy()) for check in SOFTWARE_CHECKS]
    assert [line.severity for line in lines if line is not None] == [OK] * 8


@pytest.mark.parametrize(
    ("build", "severity", "said"),
    [
        (None, ERROR, "not installed"),
        (Build("2.14.1+cu130", cuda="13.0"), OK, "built for CUDA 13.0"),
        (Build("2.14.1+cpu"), OK, "built without CUDA"),
        (Build("2.14.1+rocm7.0", hip="7.0"), OK, "HIP 7.0"),
    ],
)
def test_torch_is_named_with_its_build(build, severity, said) -> None:
    """Whether the build fits the machine is another line's question."""
    line = torch(software(torch=build))
    assert line.severity is severity
    assert said in (line.found or "")


@pytest.mark.parametrize(
    ("mine", "vision", "bounds", "severity", "said"),
    [
        ("2.14.1+cu130", "0.29.1+cu130", ">=2.14.0", OK, "built for each other"),
        ("2.14.1+cu130", "0.29.1+cu126", ">=2.14.0", ERROR, "does not load"),
        ("2.14.1+cu128", "0.29.1+cu126", ">=2.14.0", OK, "built for each other"),
        ("2.14.1+cpu", "0.29.1+cu130", ">=2.14.0", ERROR, "nms does not exist"),
        ("2.14.1+cu130", "0.29.1+cpu", ">=2.14.0", WARNING, "nms"),
        ("2.14.1+cpu", "0.29.1+cpu", ">=2.14.0", OK, "cpu"),
        ("2.14.1+cpu", "0.29.1", ">=2.14.0", OK, "no build label"),
        ("2.13.0+cu130", "0.29.1+cu130", ">=2.14.0", ERROR, "needs torch>=2.14.0"),
        ("2.11.0+cu130", "0.26.0+cu130", "==2.11.0", OK, "needs torch==2.11.0"),
        ("2.11.1+cu130", "0.26.0+cu130", "==2.11.0", ERROR, "needs torch==2.11.0"),
        ("2.14.1+cu130", "0.29.1+cu130", None, UNKNOWN, "do not say"),
        ("2.15.0a0+git1", "0.29.1+cu130", ">=2.14.0", UNKNOWN, "do not say"),
    ],
)
def test_torch_and_torchvision_are_a_pair(mine, vision, bounds, severity, said) -> None:
    """Versions that exclude each other, and builds that do; an unknown form is unknown."""
    found = software(torch=Build(mine, cuda="13.0"), torchvision=Build(vision), torchvision_needs=bounds)
    line = torch_torchvision(found)
    assert line is not None
    assert line.severity is severity
    assert said in f"{line.found} {line.why} {line.reason}"


def test_a_missing_torchvision_is_an_error_and_a_missing_torch_no_pair() -> None:
    """The latter is told once."""
    line = torch_torchvision(software(torchvision=None))
    assert line is not None
    assert line.severity is ERROR
    assert torch_torchvision(software(torch=None)) is None
    assert torchvision_image(software(torchvision=None)) is None


@pytest.mark.parametrize(
    ("build", "driver", "severity", "said"),
    [
        (Build("2.14.1+cu130", cuda="13.0"), (13, 0), OK, "supports up to 13.0"),
        (Build("2.14.1+cu132", cuda="13.2"), (13, 0), OK, "built for 13.2"),
        (Build("2.14.1+cu130", cuda="13.0"), (12, 9), ERROR, "install driver 580 or newer"),
        (Build("2.14.1+cu126", cuda="12.6"), (13, 0), OK, "built for 12.6"),
        (Build("9.9+cu140", cuda="14.0"), (13, 0), ERROR, "install a newer driver"),
        (Build("2.14.1+cu130", cuda="13.0"), None, UNKNOWN, "does not say"),
        (Build("2.14.1+cpu"), (13, 0), ERROR, "built without it"),
        (Build("2.14.1+rocm7.0", hip="7.0"), (13, 0), ERROR, "built without it"),
    ],
)
def test_torch_is_built_for_the_gpu_and_its_driver(build, driver, severity, said) -> None:
    """Within a major version of CUDA, older drivers do."""
    changed = healthy(software=replace(SOFTWARE, torch=build), driver=replace(DRIVER, cuda_version=driver))
    line = cuda_build(changed)
    assert line is not None
    assert line.severity is severity
    assert said in f"{line.found} {line.fix} {line.reason}"


def test_without_a_gpu_any_build_is_right() -> None:
    """A CPU build on a machine without a GPU is no error."""
    assert cuda_build(healthy(software=replace(SOFTWARE, torch=Build("2.14.1+cpu")), driver=NO_DRIVER)) is None


@pytest.mark.parametrize(
    ("needs", "severity", "said"),
    [
        ((), None, ""),
        ((Requirement("torch", ">=2.11", "2.11.0"),), OK, "all there"),
        ((Requirement("torch", ">=2.11", "2.10.9"),), ERROR, "torch 2.10.9 is installed, >=2.11 is needed"),
        ((Requirement("rich", ">=13", None),), ERROR, "rich is missing"),
        ((Requirement("rich", ">=13", "14.0rc1"),), OK, "all there"),
    ],
)
def test_what_loadtune_needs_is_there(needs, severity, said) -> None:
    """What has a form that is not understood is not called wrong."""
    line = requirements(software(requirements=needs))
    assert (None if line is None else line.severity) is severity
    assert line is None or said in (line.found or "")


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({}, OK, "none"),
        ({"other_distribution": "0.3.0"}, ERROR, "loadtune 0.3.0 and loadtune-probe"),
        ({"versions": {"pillow": "13", "pillow-simd": "12"}}, WARNING, "pillow and pillow-simd"),
        ({"versions": {"pillow-simd": "12"}}, OK, "none"),
        ({"versions": {"opencv-python": "4", "opencv-python-headless": "4"}}, WARNING, "package cv2"),
        ({"versions": {"opencv-python": "4"}}, OK, "none"),
        ({"versions": {"pynvml": "11.5.3"}}, WARNING, "hides nvidia-ml-py"),
        ({"versions": {"pynvml": "12.0.0"}}, OK, "none"),
    ],
)
def test_packages_that_overwrite_each_other_are_found(changes, severity, said) -> None:
    """Two distributions of one package, and the old binding to NVML."""
    line = conflicts(software(**changes))
    assert line.severity is severity
    assert said in (line.found or "")


@pytest.mark.parametrize(
    ("found", "versions", "severity", "said"),
    [
        (None, {}, ERROR, "cannot be imported"),
        (Pillow("13.0.0", True, "3.1.4", True), {}, OK, "13.0.0 with libjpeg-turbo 3.1.4 and zlib-ng"),
        (Pillow("9.5.0", True), {}, OK, "9.5.0 with libjpeg-turbo"),
        (Pillow("12.1.1", True, "3.1", False), {"pillow-simd": "12.1.1.post0"}, OK, "Pillow-SIMD 12.1.1.post0"),
        (Pillow("13.0.0", False), {}, WARNING, "without libjpeg-turbo"),
        (Pillow("4.0.0", None), {}, UNKNOWN, "does not tell"),
    ],
)
def test_pillow_says_what_it_decodes_with(found, versions, severity, said) -> None:
    """A Pillow that does not tell is not called slow."""
    line = pillow(software(pillow=found, versions=versions))
    assert line.severity is severity
    assert said in f"{line.found} {line.reason}"


@pytest.mark.parametrize(
    ("extension", "severity", "said"),
    [
        (None, NOTE, "no image extension"),
        (ImageExtension("image.so", has_nvjpeg=True), OK, "linked against nvJPEG"),
        (ImageExtension("image.so", has_nvjpeg=False), OK, "without nvJPEG"),
    ],
)
def test_torchvision_says_whether_it_decodes(extension, severity, said) -> None:
    """From the extension's file."""
    line = torchvision_image(software(image_extension=extension))
    assert line is not None
    assert line.severity is severity
    assert said in (line.found or "")


def test_other_decoders_are_listed_and_not_recommended() -> None:
    """Whether one of them is faster for these images, nobody knows without measuring."""
    line = decoders(software(versions={"opencv-python": "4.12.0", "simplejpeg": "1.9.0"}))
    assert line.severity is OK
    assert line.found is not None
    assert line.found.startswith("simplejpeg 1.9.0, OpenCV 4.12.0 installed; not installed: Pillow-SIMD, ")
    assert "OpenCV" not in line.found.partition("not installed")[2]
    assert (decoders(healthy()).found or "").startswith("none installed")
