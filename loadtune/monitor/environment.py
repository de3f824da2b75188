"""What is this machine and its software, and can loadtune run here at all? For `loadtune doctor` and every report.

It measures nothing but a short look at the load of others; what is wrong is judged in `hazards.py`.
"""

import importlib.metadata
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from loadtune.errors import EnvironmentConflictError
from loadtune.monitor.hazards import find_hazards
from loadtune.monitor.host import MachineReader, TreeReader, find_file_system, read_foreign_cores, read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.procfs import parse_counters, parse_cpu_model
from loadtune.records.resources import Environment, Unavailable

DISTRIBUTION = "loadtune-probe"
"""Our name on PyPI."""

OTHER_DISTRIBUTION = "loadtune"
"""Another project's name on PyPI. Both install a package `loadtune`, so files of one overwrite those of the other."""

DISTRIBUTIONS = (
    DISTRIBUTION,
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "pillow-simd",
    "opencv-python",
    "opencv-python-headless",
    "albumentations",
    "pycocotools",
    "webdataset",
    "datasets",
    "lightning",
    "pytorch-lightning",
    "transformers",
    "nvidia-ml-py",
    "amdsmi",
    "psutil",
    "msgspec",
)
"""Whose versions can change what is measured: they load, decode, train or watch."""

LOAD_LOOK_S = 0.3
"""How long to look at the load of others; 0.1 cores are then 3 ticks. Longer delays every start."""


def collect_environment(
    dataset_path: str | None,
    nvml: Nvml,
    ranks_per_node: int = 1,
    *,
    root: Path = Path("/"),
    sleep: Callable[[float], None] = time.sleep,
) -> Environment:
    """Return what this machine is and what is wrong with it. Takes 0.3 s, to see what others do to its CPUs.

    Args:
        dataset_path: Where the data lie; None: they are in memory.
        nvml: An open session, or one that says why there is none.
        ranks_per_node: Local ranks that share cores and memory.
        root: Where /proc, /sys and /dev hang; another folder in tests.
        sleep: Waits that many seconds.
    """
    limits = read_limits(ranks_per_node, root=root)
    cpu_model = parse_cpu_model(_read_text(root / "proc/cpuinfo"))
    file_system = None if dataset_path is None else find_file_system(dataset_path, root=root)
    unavailable = []
    if cpu_model is None:
        unavailable.append(Unavailable(reading="cpu_model", reason="/proc/cpuinfo gives no name"))
    if file_system is None:
        why = "the data set is in memory" if dataset_path is None else "/proc/self/mountinfo names no mount for it"
        unavailable.append(Unavailable(reading="file_system", reason=why))
    gpus = nvml.gpus()
    if not gpus and not nvml.unavailable:
        unavailable.append(Unavailable(reading="gpus", reason="NVML finds no GPU"))
    warnings = find_hazards(
        limits,
        foreign_cores=_look_at_others(root, sleep),
        swap_used_bytes=_read_swap_used(root),
        file_system=file_system,
    )
    return Environment(
        platform=platform.platform(),
        cpu_model=cpu_model,
        python=platform.python_version(),
        versions=read_versions(),
        limits=limits,
        start_method=read_start_method(),
        gpus=gpus,
        file_system=file_system,
        warnings=warnings,
        unavailable=(*unavailable, *nvml.unavailable),
    )


def read_versions() -> dict[str, str]:
    """Return distribution name -> version of what is installed among DISTRIBUTIONS. Imports none of them."""
    found = {name: _find_version(name) for name in DISTRIBUTIONS}
    return {name: version for name, version in found.items() if version is not None}


def read_start_method() -> str:
    """Return multiprocessing's start method without fixing it: the one chosen, else this Python's default."""
    # get_start_method() would fix the default, and the user's own set_start_method() would then fail.
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def refuse_other_platforms() -> None:
    """Refuse to run where there is no /proc.

    Raises:
        EnvironmentConflictError: This is not Linux.
    """
    if not sys.platform.startswith("linux"):
        raise EnvironmentConflictError(
            f"loadtune runs on Linux only, and this is {platform.system() or sys.platform}",
            "run it in the Linux machine, container or WSL 2 in which the training runs",
        )


def refuse_other_distribution() -> None:
    """Refuse to run beside the other project that installs a package of the same name.

    Raises:
        EnvironmentConflictError: Both distributions are installed.
    """
    other = _find_version(OTHER_DISTRIBUTION)
    if other is not None and _find_version(DISTRIBUTION) is not None:
        raise EnvironmentConflictError(
            f"the distribution {OTHER_DISTRIBUTION} {other} is another project, and shares the package name with ours",
            f"pip uninstall {OTHER_DISTRIBUTION}, then pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )


def _find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _look_at_others(root: Path, sleep: Callable[[float], None]) -> float | None:
    """Return the cores that others keep busy. The trial server starts meanwhile: as our child it is not another."""
    machine, own = MachineReader(root), TreeReader(os.getpid())
    try:
        return read_foreign_cores(machine, own, LOAD_LOOK_S, sleep=sleep)
    finally:
        machine.close()
        own.close()


def _read_swap_used(root: Path) -> int | None:
    meminfo = parse_counters(_read_text(root / "proc/meminfo"))
    if not {"SwapTotal", "SwapFree"} <= meminfo.keys():
        return None
    return meminfo["SwapTotal"] - meminfo["SwapFree"]


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
