"""How do worker processes start, and how many files and threads may they have? One function a check."""

import re

from loadtune.doctor.host_checks import count_usable_cores
from loadtune.doctor.readings import THREAD_SETTINGS, Readings
from loadtune.doctor.subject import Subject
from loadtune.monitor.hazards import OPEN_FILES_MIN, judge_open_files, judge_quota
from loadtune.records.diagnosis import Line
from loadtune.records.report import Evidence

RAISED_OPEN_FILES = 4096
"""What the hint asks `ulimit -n` for: 64 workers with eight tensors in flight each are 512."""

FORKSERVER_PYTHON = (3, 14)
"""From this Python on, multiprocessing on Linux starts processes by forkserver unless told otherwise."""

OPENCV_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""All of them install the package cv2."""

OPEN_FILES = Subject("open-files", "processes", "open files")
START_METHOD = Subject("start-method", "processes", "worker start")
THREADS = Subject("threads", "processes", "threads a process")
OPENCV = Subject("opencv-threads", "processes", "OpenCV threads")


def open_files(readings: Readings) -> Line:
    """Whether the limit on open files is one that batches in flight may reach."""
    limits, hard = readings.host.machine.limits, readings.host.open_files_hard_limit
    if limits.open_files_limit is None:
        return OPEN_FILES.ok("no limit")
    evidence = Evidence(
        name="open_files_limit", value=limits.open_files_limit, threshold=OPEN_FILES_MIN, source="own choice"
    )
    hazard = judge_open_files(limits)
    if hazard is None:
        room = "and may be raised to any number" if hard is None else f"may be raised to {hard:,}"
        return OPEN_FILES.ok(f"{limits.open_files_limit:,} allowed, {room}", evidence)
    if hard is None or hard >= RAISED_OPEN_FILES:
        return OPEN_FILES.hazard(hazard, evidence)
    fix = (
        f"`ulimit -n {hard}` is all this user may have: have the hard limit raised, or call "
        "torch.multiprocessing.set_sharing_strategy('file_system')"
    )
    return OPEN_FILES.warning(hazard.found, hazard.why, fix, evidence)


def start_method(readings: Readings) -> Line:
    """How worker processes are started, and how Python 3.14 starts them."""
    method, (major, minor) = readings.host.machine.start_method, readings.host.python
    found = f"by {method} on Python {major}.{minor}"
    if method == "fork" and readings.host.python < FORKSERVER_PYTHON:
        return START_METHOD.ok(f"{found}; from 3.14 on the default is forkserver, and data sets must then pickle")
    if method == "fork":
        return START_METHOD.ok(f"{found}, whose default is forkserver")
    return START_METHOD.note(
        found,
        "data set and collate_fn must pickle, so no lambda and no class within a function; every worker imports anew",
        "define them at the top of a module, with persistent_workers=True; or multiprocessing_context='fork'",
    )


def threads(readings: Readings) -> Line:
    """How many threads the numerical libraries of one process start."""
    limits, usable = readings.host.machine.limits, count_usable_cores(readings.host.machine.limits)
    chosen = {name: readings.host.settings[name] for name in THREAD_SETTINGS if name in readings.host.settings}
    listed = ", ".join(f"{name}={value}" for name, value in chosen.items())
    if "OMP_NUM_THREADS" in chosen and _count_threads(chosen["OMP_NUM_THREADS"]) is None:
        return THREADS.warning(
            listed, "OpenMP ignores what is no count, and starts one a core", f"export OMP_NUM_THREADS={usable}"
        )
    too_many = [name for name, value in chosen.items() if (_count_threads(value) or 0) > usable]
    if too_many:
        return THREADS.warning(
            f"{listed}, with {usable} usable {_cores(usable)}",
            "threads that share a core wait for each other, most of all at the end of each parallel loop",
            f"export {too_many[0]}={usable}, or less where workers run beside it",
        )
    if "OMP_NUM_THREADS" not in chosen and judge_quota(limits) is not None:
        return THREADS.warning(
            f"OMP_NUM_THREADS is not set, so OpenMP starts {limits.affinity_cores} in the main process",
            f"OpenMP does not see the quota of {limits.quota_cores:.3g} cores, and the kernel then stops all of them",
            f"export OMP_NUM_THREADS={usable}, or torch.set_num_threads({usable})",
        )
    if not chosen:
        return THREADS.ok("OMP_NUM_THREADS is not set: one a core in the main process; torch sets one in each worker")
    return THREADS.ok(listed)


def opencv_threads(readings: Readings) -> Line | None:
    """Whether OpenCV multiplies the threads of each worker."""
    versions = readings.software.versions
    installed = [f"{name} {versions[name]}" for name in OPENCV_DISTRIBUTIONS if name in versions]
    if not installed or "OPENCV_FOR_THREADS_NUM" in readings.host.settings:
        return None
    return OPENCV.note(
        f"{installed[0]} starts its own in every worker",
        "workers times cores threads compete, and threads that are running when a worker is forked can hang it",
        "if your data set uses cv2: cv2.setNumThreads(0) at the top of its module",
    )


def _count_threads(value: str) -> int | None:
    """Read a count, or the first of OpenMP's list for nested loops: `4`, `4,2`; None: it is neither.

    >>> _count_threads("8"), _count_threads("4,2"), _count_threads("0"), _count_threads("auto")
    (8, 4, None, None)
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*(,\s*\d+\s*)*", value)
    return int(match.group(1)) or None if match is not None else None


def _cores(count: int) -> str:
    return "core" if count == 1 else "cores"


PROCESS_CHECKS = (open_files, start_method, threads, opencv_threads)
"""In the order in which they are shown."""
