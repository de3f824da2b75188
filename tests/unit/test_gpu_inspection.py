"""What the driver is asked once: a healthy GPU, one that refuses, one in MIG mode, and no driver at all."""

# ruff: noqa: N802 - the fakes bear NVML's own names
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtune.monitor.gpu_inspection import GpuInspector, Link, has_nvidia_device
from loadtune.monitor.nvml import Code


class FakeNvmlError(Exception):
    """Stands for pynvml.NVMLError."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


ANSWERS = {
    "nvmlInit": None,
    "nvmlShutdown": None,
    "nvmlSystemGetDriverVersion": "580.95.05",
    "nvmlSystemGetCudaDriverVersion": 13000,
    "nvmlDeviceGetCount": 2,
    "nvmlDeviceGetName": "NVIDIA H100",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 << 30, used=2 << 30),
    "nvmlDeviceGetPowerUsage": 80_000,
    "nvmlDeviceGetClockInfo": 345,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=3, memory=0),
    "nvmlGpmQueryDeviceSupport": SimpleNamespace(isSupportedDevice=1),
    "nvmlDeviceGetMigMode": [0, 1],
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetComputeMode": 0,
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=1), SimpleNamespace(pid=2)],
    "nvmlDeviceGetProcessUtilization": [],
    "nvmlDeviceGetPcieThroughput": 100,
    "nvmlDeviceGetTotalEnergyConsumption": 5,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetCurrPcieLinkGeneration": 1,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
}


class FakeDriver:
    """Stands for the module pynvml: two GPUs, whose handles are their numbers; refusals are set by function name."""

    NVMLError = FakeNvmlError

    def __init__(self):
        self.refusals = {}
        self.answers = dict(ANSWERS)

    def __getattr__(self, name):
        if name not in self.answers and name not in self.refusals:
            raise AttributeError(name)

        def call(*arguments):
            if name in self.refusals:
                raise FakeNvmlError(self.refusals[name])
            return self.answers[name]

        return call

    def nvmlDeviceGetHandleByIndex(self, index):
        return 1 - index  # the list is not in the order of the index

    def nvmlDeviceGetHandleByUUID(self, uuid):
        return int(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}"

    def nvmlDeviceGetIndex(self, handle):
        return handle

    def nvmlDeviceGetSamples(self, handle, kind, since_us):
        raise FakeNvmlError(Code.NOT_FOUND)


@pytest.fixture
def driver(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def inspect(root=Path("/nowhere")):
    return GpuInspector.open().inspect(root=root)


def test_a_healthy_driver_tells_everything(driver):
    """GPUs in the order of NVML's index, readings one by one."""
    found = inspect()
    assert (found.reason, found.version, found.cuda_version) == (None, "580.95.05", (13, 0))
    assert [(gpu.index, gpu.info.uuid) for gpu in found.gpus] == [(0, "GPU-0"), (1, "GPU-1")]
    gpu = found.gpus[0]
    assert (gpu.is_mig, gpu.is_mig_pending, gpu.compute_mode, gpu.is_persistent) == (False, True, 0, True)
    assert (gpu.processes, gpu.used_bytes, gpu.utilisation_ratio) == (2, 2 << 30, 0.03)
    assert (gpu.throttle_reasons, gpu.max_link) == (("idle",), Link(5, 16))
    assert [reading.name for reading in gpu.readings if not reading.is_available] == []
    assert [reading.name for reading in gpu.readings if reading.is_needed] == [
        "utilisation", "memory", "power", "SM clock", "throttle reasons",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "name", "is_needed"),
    [
        ("nvmlDeviceGetPowerUsage", "power", True),
        ("nvmlDeviceGetMemoryInfo", "memory", True),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy", False),
        ("nvmlDeviceGetPcieThroughput", "PCIe throughput", False),
        ("nvmlGpmQueryDeviceSupport", "performance metrics", False),
        ("nvmlDeviceGetProcessUtilization", "process utilisation", False),
    ],
)
def test_each_refusal_is_one_reading_with_its_reason_and_cost(driver, call, name, is_needed):
    """The rest stays."""
    driver.refusals[call] = Code.NO_PERMISSION
    (missing,) = [reading for reading in inspect().gpus[0].readings if not reading.is_available]
    assert (missing.name, missing.is_needed) == (name, is_needed)
    assert missing.reason == "the driver gives no permission"
    assert missing.cost


def test_nothing_new_is_not_nothing(driver):
    """The driver says "not found" where a ring is empty; on MIG it refuses."""
    driver.refusals["nvmlDeviceGetProcessUtilization"] = Code.NOT_FOUND
    names = [reading.name for reading in inspect().gpus[0].readings if not reading.is_available]
    assert names == []


def test_an_old_driver_leaves_fields_open(driver):
    """Unknown is None, and never a default that means something."""
    for name in (
        "nvmlDeviceGetMigMode", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetComputeMode",
        "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMaxPcieLinkWidth", "nvmlSystemGetCudaDriverVersion",
    ):  # fmt: skip
        driver.refusals[name] = Code.FUNCTION_NOT_FOUND
    found = inspect()
    gpu = found.gpus[0]
    assert found.cuda_version is None
    assert (gpu.is_mig, gpu.is_persistent, gpu.compute_mode, gpu.processes, gpu.max_link) == (None,) * 5


def test_the_link_is_read_as_it_is_now(driver):
    """Idle, it is slower than it can be."""
    inspector = GpuInspector.open()
    assert inspector.read_link("GPU-0") == Link(1, 16)
    driver.answers["nvmlDeviceGetCurrPcieLinkWidth"] = 0
    assert inspector.read_link("GPU-0") is None
    driver.refusals["nvmlDeviceGetCurrPcieLinkGeneration"] = Code.NOT_SUPPORTED
    assert inspector.read_link("GPU-0") is None
    inspector.close()
    assert inspector.read_link("GPU-0") is None


def test_no_driver_is_a_reason(driver, tmp_path):
    """With what stands for one on this machine."""
    driver.refusals["nvmlInit"] = Code.LIBRARY_NOT_FOUND
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    found = inspect(tmp_path)
    assert "libnvidia-ml.so.1 not found" in (found.reason or "")
    assert (found.version, found.cuda_version, found.gpus, found.left_out) == (None, None, (), ())
    assert (found.has_node, found.has_pci) == (True, False)


def test_a_forbidden_gpu_is_left_out(driver):
    """And named."""
    driver.refusals["nvmlDeviceGetName"] = Code.NO_PERMISSION
    handle = driver.nvmlDeviceGetUUID

    def refuse(number):
        if number == 1:
            raise FakeNvmlError(Code.NO_PERMISSION)
        return handle(number)

    driver.nvmlDeviceGetUUID = refuse
    found = inspect()
    assert [gpu.info.name for gpu in found.gpus] == ["NVIDIA GPU"]
    assert [item.reason for item in found.left_out] == ["the driver gives no permission"]


@pytest.mark.parametrize(
    ("vendor", "kind", "is_one"),
    [
        ("0x10de", "0x030200", True),
        ("0x10de", "0x030000", True),
        ("0x10de", "0x040300", False),
        ("0x1002", "0x030000", False),
        ("", "", False),
    ],
)
def test_a_gpu_on_the_bus_is_known_by_vendor_and_class(tmp_path, vendor, kind, is_one):
    """Its sound device is none; another maker's GPU is not NVIDIA's."""
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    (tmp_path / "sys/bus/pci/devices/0000:02:00.0").mkdir()
    assert has_nvidia_device(tmp_path) is is_one
