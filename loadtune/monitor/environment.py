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
from dataclasses import dataclass
from pathlib import Path

from loadtune.errors import EnvironmentConflictError
from loadtune.monitor.hazards import find_hazards
from loadtune.monitor.host import MachineReader, TreeReader, find_file_system, read_foreign_cores, read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.procfs import parse_counters, parse_cpu_model
from loadtune.records.resources import Environment, GpuInfo, HostLimits, Unavailable

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
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
    "pyturbojpeg",
    "simplejpeg",
    "torchcodec",
    "nvidia-dali-cuda120",
    "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu12",
    "nvidia-nvimgcodec-cu13",
    "albumentations",
    "pycocotools",
    "webdataset",
    "datasets",
    "lightning",
    "pytorch-lightning",
    "transformers",
    "nvidia-ml-py",
    "pynvml",
    "amdsmi",
    "psutil",
    "msgspec",
)
"""Whose versions can change what is measured: they load, decode, train or watch."""

LOAD_LOOK_S = 0.3
"""How long to look at the load of others; 0.1 cores are then 3 ticks. Longer delays every start."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was read of this machine, data and GPUs apart."""

    limits: HostLimits
    cpu_model: str | None
    foreign_cores: float | None
    """Cores that others keep busy, on the CPUs of our mask; None: /proc/stat cannot be read."""
    memory_total_bytes: int | None
    """Physical memory of the machine, whatever this process may use of it; None: /proc/meminfo does not tell."""
    swap_total_bytes: int | None
    swap_used_bytes: int | None
    versions: dict[str, str]
    start_method: str


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
    machine = read_machine(ranks_per_node, root=root, sleep=sleep)
    file_system = None if dataset_path is None else find_file_system(dataset_path, root=root)
    why = "the data set is in memory" if dataset_path is None else "/proc/self/mountinfo names no mount for it"
    gpus = nvml.gpus()
    return describe_environment(machine, gpus, nvml.unavailable, file_system, why)


def read_machine(
    ranks_per_node: int = 1, *, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep
) -> Machine:
    """Read limits, load and software. Takes 0.3 s; arguments as for `collect_environment`."""
    meminfo = parse_counters(_read_text(root / "proc/meminfo"))
    swap_bytes, swap_free_bytes = meminfo.get("SwapTotal"), meminfo.get("SwapFree")
    return Machine(
        limits=read_limits(ranks_per_node, root=root),
        cpu_model=parse_cpu_model(_read_text(root / "proc/cpuinfo")),
        foreign_cores=_look_at_others(root, sleep),
        memory_total_bytes=meminfo.get("MemTotal"),
        swap_total_bytes=swap_bytes,
        swap_used_bytes=None if swap_bytes is None or swap_free_bytes is None else swap_bytes - swap_free_bytes,
        versions=read_versions(),
        start_method=read_start_method(),
    )


def describe_environment(
    machine: Machine,
    gpus: tuple[GpuInfo, ...],
    gpus_unavailable: tuple[Unavailable, ...],
    file_system: str | None,
    no_file_system: str,
) -> Environment:
    """Put together what was read.

    Args:
        machine: What `read_machine` returned.
        gpus: As NVML lists them.
        gpus_unavailable: Why there are none, or which had to be left out.
        file_system: Type of the data set's file system; None: there is none, or it is not known.
        no_file_system: Why it is None.
    """
    unavailable = []
    if machine.cpu_model is None:
        unavailable.append(Unavailable(reading="cpu_model", reason="/proc/cpuinfo gives no name"))
    if file_system is None:
        unavailable.append(Unavailable(reading="file_system", reason=no_file_system))
    if not gpus and not gpus_unavailable:
        unavailable.append(Unavailable(reading="gpus", reason="NVML finds no GPU"))
    return Environment(
        platform=platform.platform(),
        cpu_model=machine.cpu_model,
        python=platform.python_version(),
        versions=machine.versions,
        limits=machine.limits,
        start_method=machine.start_method,
        gpus=gpus,
        file_system=file_system,
        warnings=find_hazards(
            machine.limits,
            foreign_cores=machine.foreign_cores,
            swap_used_bytes=machine.swap_used_bytes,
            file_system=file_system,
        ),
        unavailable=(*unavailable, *gpus_unavailable),
    )


def read_versions() -> dict[str, str]:
    """Return distribution name -> version of what is installed among DISTRIBUTIONS. Imports none of them."""
    found = {name: find_version(name) for name in DISTRIBUTIONS}
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
    other = find_version(OTHER_DISTRIBUTION)
    if other is not None and find_version(DISTRIBUTION) is not None:
        raise EnvironmentConflictError(
            f"the distribution {OTHER_DISTRIBUTION} {other} is another project, and shares the package name with ours",
            f"pip uninstall {OTHER_DISTRIBUTION}, then pip install --force-reinstall --no-deps {DISTRIBUTION}",
        )


def find_version(name: str) -> str | None:
    """Return the version of an installed distribution; None: it is not installed."""
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


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
