"""What does `loadtune doctor` do? It reads everything, judges it check by check, and puts the lines in order."""

import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from loadtune.doctor.cuda_checks import CUDA_CHECKS, DEVICE_CHECKS, without_cuda
from loadtune.doctor.gpu_checks import DRIVER_CHECKS, GPU_CHECKS
from loadtune.doctor.host_checks import HOST_CHECKS
from loadtune.doctor.looking import look
from loadtune.doctor.process_checks import PROCESS_CHECKS
from loadtune.doctor.readings import Readings
from loadtune.doctor.software_checks import SOFTWARE_CHECKS
from loadtune.doctor.storage_checks import STORAGE_CHECKS
from loadtune.engine.launcher import Launcher
from loadtune.monitor.environment import describe_environment, refuse_other_platforms
from loadtune.records.diagnosis import Diagnosis, GpuCapabilities, Line
from loadtune.records.resources import Environment, Unavailable
from loadtune.version import __version__

PLAIN_CHECKS = (*HOST_CHECKS, *PROCESS_CHECKS, *STORAGE_CHECKS, *SOFTWARE_CHECKS, *DRIVER_CHECKS)
"""Those that are asked once, in the order of the topics."""


def examine(dataset: str | None, *, with_cuda: bool = False, root: Path = Path("/")) -> Diagnosis:
    """Look at this machine for about a second and say what is wrong with it; trying CUDA takes some seconds more.

    Args:
        dataset: The data set's folder; None: storage is not looked at.
        with_cuda: Whether torch is to be imported, in a process of its own, and CUDA tried.
        root: Where /proc, /sys and /dev hang; another folder in tests.

    Raises:
        EnvironmentConflictError: This is not Linux.
    """
    refuse_other_platforms()
    began_s, created = time.monotonic(), datetime.now().astimezone().isoformat(timespec="seconds")
    with ExitStack() as stack:
        launcher = stack.enter_context(Launcher()) if with_cuda else None  # torch is imported meanwhile
        readings = look(dataset, launcher, root=root)
    return Diagnosis(
        loadtune_version=__version__,
        created=created,
        dataset=dataset,
        has_cuda_checks=with_cuda,
        environment=_describe(readings),
        lines=judge(readings),
        capabilities=tuple(
            GpuCapabilities(gpu=gpu.index, uuid=gpu.info.uuid, readings=gpu.readings) for gpu in readings.driver.gpus
        ),
        seconds_spent=time.monotonic() - began_s,
    )


def judge(readings: Readings) -> tuple[Line, ...]:
    """Return the line of every check that has something to say. Pure."""
    lines: list[Line | None] = [check(readings) for check in PLAIN_CHECKS]
    for gpu in readings.driver.gpus:
        lines += [check(readings, gpu) for check in GPU_CHECKS]
    lines += [check(readings) for check in CUDA_CHECKS]
    checked = None if readings.cuda is None else readings.cuda.checked
    for device in () if checked is None else checked.devices:
        lines += [check(readings, device) for check in DEVICE_CHECKS]
    lines += without_cuda(readings)
    return tuple(line for line in lines if line is not None)


def _describe(readings: Readings) -> Environment:
    driver, storage = readings.driver, readings.storage
    missing = driver.left_out if driver.reason is None else (Unavailable(reading="gpus", reason=driver.reason),)
    mount = None if storage is None else storage.mount
    why = (
        "no data set was named" if storage is None else storage.problem or "/proc/self/mountinfo names no mount for it"
    )
    return describe_environment(
        readings.host.machine,
        tuple(gpu.info for gpu in driver.gpus),
        missing,
        None if mount is None else mount.file_system,
        why,
    )
