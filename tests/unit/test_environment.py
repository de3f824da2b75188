"""What the machine is, what is wrong with it, and where loadtune refuses to run."""

import importlib.metadata
import multiprocessing
import platform
import subprocess
import sys

import msgspec
import pytest

from loadtune.errors import EnvironmentConflictError
from loadtune.monitor import environment
from loadtune.monitor.hazards import find_hazards
from loadtune.monitor.nvml import Nvml
from loadtune.records.resources import GpuInfo, HostLimits, Unavailable

GIB = 1 << 30
LIMITS = HostLimits(
    usable_cores=8.0,
    affinity_cores=8,
    memory_limit_bytes=32 * GIB,
    memory_available_bytes=30 * GIB,
    shm_total_bytes=16 * GIB,
    shm_free_bytes=16 * GIB,
    open_files_limit=1024,
)


def hazards(*, foreign_cores=0.0, swap_used_bytes=0, file_system="ext4", **changes):
    """Return the warnings of a healthy machine with some figures changed."""
    return find_hazards(
        msgspec.structs.replace(LIMITS, **changes),
        foreign_cores=foreign_cores,
        swap_used_bytes=swap_used_bytes,
        file_system=file_system,
    )


def test_a_healthy_machine_has_no_warnings():
    """Nor has one of which nothing is known."""
    assert hazards() == ()
    assert hazards(foreign_cores=None, swap_used_bytes=None, file_system=None, shm_total_bytes=None) == ()


@pytest.mark.parametrize(
    ("figures", "what", "hint"),
    [
        ({"shm_total_bytes": 64 << 20}, "/dev/shm holds only 64 MiB", "--shm-size"),
        ({"memory_oom_group": True}, "memory.oom.group", "80 %"),
        ({"swap_used_bytes": GIB}, "1024 MiB of swap", "swapoff"),
        ({"quota_cores": 1.5, "usable_cores": 1.5}, "quota of 1.5 cores", "quota"),
        ({"foreign_cores": 1.0}, "other programs keep 1.0 of 8", "end them"),
        ({"open_files_limit": 256}, "only 256 open files", "ulimit -n"),
        ({"file_system": "nfs4"}, "network file system (nfs4)", "local disk"),
    ],
)
def test_each_hazard_is_one_warning_of_two_lines(figures, what, hint):
    """What, with its number, and below it what to do."""
    (warning,) = hazards(**figures)
    first, second = warning.split("\n")
    assert what in first
    assert hint in second


@pytest.mark.parametrize(
    "figures",
    [
        {"shm_total_bytes": GIB},
        {"foreign_cores": 0.7},
        {"open_files_limit": 257},
        {"open_files_limit": None},
        {"swap_used_bytes": GIB // 8},
        {"quota_cores": 8.0},
        {"usable_cores": 4.0, "ranks_per_node": 2, "foreign_cores": 0.5},
    ],
)
def test_what_is_just_right_is_not_warned_of(figures):
    """At the thresholds, and cores shared among ranks."""
    assert hazards(**figures) == ()


def test_others_under_a_quota_harm_only_where_they_leave_too_little():
    """64 CPUs with a quota of 4: 30 busy cores elsewhere leave enough."""
    quota = {"affinity_cores": 64, "quota_cores": 4.0, "usable_cores": 4.0}
    assert len(hazards(**quota, foreign_cores=30.0)) == 1
    assert len(hazards(**quota, foreign_cores=61.0)) == 2


class FakeNvml:
    reason = None

    def __init__(self, found=(), unavailable=()):
        self.found, self.unavailable = found, unavailable

    def gpus(self):
        return self.found


def collect(**options):
    return environment.collect_environment(
        **({"dataset_path": None, "nvml": FakeNvml()} | options), sleep=lambda seconds: None
    )


def test_environment_of_this_machine(tmp_path):
    """Everything that this machine can tell, and a reason for what it cannot."""
    gpu = GpuInfo(uuid="GPU-1", name="NVIDIA H100")
    found = collect(dataset_path=str(tmp_path), nvml=FakeNvml((gpu,)), ranks_per_node=2)
    assert found.python == platform.python_version()
    assert found.file_system
    assert (found.gpus, found.limits.ranks_per_node) == ((gpu,), 2)
    assert {"torch", "numpy", "psutil"} <= found.versions.keys()
    assert all(found.versions.values())
    assert {item.reading for item in found.unavailable} <= {"cpu_model"}


def test_without_nvml_the_reason_is_told():
    """The report says why there is no GPU, not that there are zero."""
    nvml = Nvml(None, "libnvidia-ml.so.1 not found")
    reasons = {item.reading: item.reason for item in collect(nvml=nvml).unavailable}
    assert reasons["gpus"] == "libnvidia-ml.so.1 not found"
    assert reasons["file_system"] == "the data set is in memory"


def test_no_gpu_and_a_forbidden_gpu_are_told_apart():
    """NVML works in both."""
    assert Unavailable(reading="gpus", reason="NVML finds no GPU") in collect().unavailable
    refused = Unavailable(reading="gpus[0]", reason="the driver gives no permission")
    readings = [item.reading for item in collect(nvml=FakeNvml((), (refused,))).unavailable]
    assert "gpus[0]" in readings
    assert "gpus" not in readings


def test_an_empty_proc_is_no_error(tmp_path):
    """Nothing known, everything explained."""
    found = collect(dataset_path="/data", root=tmp_path)
    assert (found.cpu_model, found.file_system) == (None, None)
    assert {item.reading for item in found.unavailable} == {"cpu_model", "file_system", "gpus"}


def test_swap_in_use_is_found(tmp_path):
    """From /proc/meminfo."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8 kB\nSwapTotal: 2097152 kB\nSwapFree: 1048576 kB\n")
    (warning,) = [each for each in collect(root=tmp_path).warnings if "swap" in each]
    assert warning.startswith("1024 MiB")


def test_start_method_is_read_without_being_fixed(monkeypatch):
    """The default of this Python, or what the user has chosen. A process of its own: any library may fix it here."""
    script = (
        "import multiprocessing as mp; from loadtune.monitor.environment import read_start_method; "
        "print(read_start_method() == mp.get_all_start_methods()[0], mp.get_start_method(allow_none=True))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["True", "None"]
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    assert environment.read_start_method() == "spawn"


def test_other_platforms_are_refused_in_one_line(monkeypatch):
    """What, and where to run instead."""
    environment.refuse_other_platforms()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(EnvironmentConflictError) as caught:
        environment.refuse_other_platforms()
    assert "Linux only" in caught.value.what
    assert "\n" not in caught.value.what


@pytest.mark.parametrize(
    ("installed", "is_refused"),
    [
        ({}, False),
        ({"loadtune-probe": "0.1.0"}, False),
        ({"loadtune": "1.2"}, False),
        ({"loadtune": "1.2", "loadtune-probe": "0.1.0"}, True),
    ],
)
def test_the_other_distribution_is_refused_only_beside_ours(monkeypatch, installed, is_refused):
    """Both write into one package folder."""

    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    if not is_refused:
        environment.refuse_other_distribution()
        return
    with pytest.raises(EnvironmentConflictError) as caught:
        environment.refuse_other_distribution()
    assert "loadtune 1.2 is another project" in caught.value.what
    assert caught.value.hint.startswith("pip uninstall loadtune")
