"""What is said of open files, the start of workers and threads."""

import pytest

from loadtune.doctor.process_checks import (
    PROCESS_CHECKS,
    RAISED_OPEN_FILES,
    open_files,
    opencv_threads,
    start_method,
    threads,
)
from loadtune.monitor.hazards import OPEN_FILES_MIN
from loadtune.records.diagnosis import Severity
from tests.machines import healthy, host, software

OK, UNKNOWN, NOTE, WARNING, ERROR = Severity
QUOTA = {"quota_cores": 4.0, "usable_cores": 4.0}


def test_a_healthy_machine_is_fine() -> None:
    """Without OpenCV, nothing is said of it."""
    lines = [check(healthy()) for check in PROCESS_CHECKS]
    assert [line.severity for line in lines if line is not None] == [OK] * 3


@pytest.mark.parametrize(
    ("soft", "hard", "severity", "said"),
    [
        (None, None, OK, "no limit"),
        (1024, 524288, OK, "1,024 allowed, may be raised to 524,288"),
        (1024, None, OK, "any number"),
        (OPEN_FILES_MIN + 1, 1024, OK, "257"),
        (OPEN_FILES_MIN, RAISED_OPEN_FILES, WARNING, "ulimit -n 4096"),
        (OPEN_FILES_MIN, None, WARNING, "ulimit -n 4096"),
        (OPEN_FILES_MIN, RAISED_OPEN_FILES - 1, WARNING, "ulimit -n 4095"),
    ],
)
def test_open_files_are_raised_as_far_as_they_may_be(soft, hard, severity, said) -> None:
    """A hint that the shell would refuse is none."""
    line = open_files(host(open_files_limit=soft, open_files_hard_limit=hard))
    assert line.severity is severity
    assert said in f"{line.found} {line.fix}"


@pytest.mark.parametrize(
    ("method", "python", "severity", "said"),
    [
        ("fork", (3, 13), OK, "from 3.14 on the default is forkserver"),
        ("fork", (3, 14), OK, "Python 3.14, whose default is forkserver"),
        ("forkserver", (3, 14), NOTE, "by forkserver on Python 3.14"),
        ("spawn", (3, 11), NOTE, "by spawn on Python 3.11"),
    ],
)
def test_start_method_is_told_with_the_default_to_come(method, python, severity, said) -> None:
    """fork is fine, whichever Python; the others want data sets that pickle."""
    line = start_method(host(start_method=method, python=python))
    assert line.severity is severity
    assert said in (line.found or "")


@pytest.mark.parametrize(
    ("settings", "limits", "severity", "said"),
    [
        ({}, {}, OK, "not set"),
        ({}, QUOTA, WARNING, "OpenMP starts 8"),
        ({"MKL_NUM_THREADS": "2"}, QUOTA, WARNING, "OpenMP starts 8"),
        ({"OMP_NUM_THREADS": "4"}, QUOTA, OK, "OMP_NUM_THREADS=4"),
        ({"OMP_NUM_THREADS": "5"}, QUOTA, WARNING, "with 4 usable cores"),
        ({"OMP_NUM_THREADS": "8"}, {}, OK, "OMP_NUM_THREADS=8"),
        ({"OMP_NUM_THREADS": "9"}, {}, WARNING, "with 8 usable cores"),
        ({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "9"}, {}, WARNING, "export MKL_NUM_THREADS=8"),
        ({"OMP_NUM_THREADS": "4,2"}, {}, OK, "4,2"),
        ({"OMP_NUM_THREADS": "0"}, {}, WARNING, "no count"),
        ({"OMP_NUM_THREADS": "all"}, {}, WARNING, "no count"),
        ({"OMP_NUM_THREADS": ""}, {}, WARNING, "no count"),
        ({"OMP_NUM_THREADS": "9" * 30}, {}, WARNING, "no count"),
        ({"OPENCV_FOR_THREADS_NUM": "0"}, {}, OK, "OPENCV_FOR_THREADS_NUM=0"),
    ],
)
def test_threads_fit_the_cores(settings, limits, severity, said) -> None:
    """OpenMP sees the mask and not the quota; what it cannot read, it ignores."""
    line = threads(host(settings=settings, **limits))
    assert line.severity is severity
    assert said in f"{line.found} {line.why} {line.fix}"


def test_opencv_is_a_note_where_it_is_installed_and_not_held() -> None:
    """Its threads come on top of the workers."""
    assert opencv_threads(healthy()) is None
    with_opencv = software(versions={"opencv-python-headless": "4.12.0"})
    line = opencv_threads(with_opencv)
    assert line is not None
    assert line.severity is NOTE
    assert "opencv-python-headless 4.12.0" in (line.found or "")
    assert "cv2.setNumThreads(0)" in (line.fix or "")
    held = host(settings={"OPENCV_FOR_THREADS_NUM": "1"}).host
    assert opencv_threads(healthy(software=with_opencv.software, host=held)) is None
