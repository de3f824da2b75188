"""What would stand in a training's way on each GPU, as the driver tells it? One look, for `loadtune doctor`.

The calls that a trial is watched with are `nvml.py`'s; here are those that are asked once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loadtune.monitor.gpu import MEMORY, POWER, SM_CLOCK, THROTTLE, UTILISATION, Reader
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.nvml_answer import Answer, Code, ask
from loadtune.monitor.readings import COSTS
from loadtune.records.resources import GpuInfo, Reading, Unavailable

NVIDIA_VENDOR, DISPLAY_CLASS = "0x10de", "0x03"
"""As /sys/bus/pci/devices/*/vendor and the first two digits of class give them: PCI-SIG's number and class code."""

UTILISATION_COST, CLOCKS_COST, GPM_COST = (
    COSTS["GPU utilisation (NVML)"],
    COSTS["GPU clocks, power and throttling (NVML)"],
    COSTS["GPU performance metrics (GPM)"],
)

READER_NAMES = (
    (UTILISATION, "utilisation", UTILISATION_COST),
    (MEMORY, "memory", "device memory in use is not seen from outside the trial"),
    (POWER, "power", CLOCKS_COST),
    (SM_CLOCK, "SM clock", CLOCKS_COST),
    (THROTTLE, "throttle reasons", CLOCKS_COST),
)
"""What a trial is watched with: field, name for people, and what its absence costs."""

UNUSED_CALLS: tuple[tuple[str, str, tuple[int, ...], str], ...] = (
    ("utilisation history", "nvmlDeviceGetSamples", (1, 0), "utilisation is asked for second by second instead"),
    ("process list", "nvmlDeviceGetComputeRunningProcesses", (), "other users of the GPU are not seen"),
    ("process utilisation", "nvmlDeviceGetProcessUtilization", (0,), "whose kernels keep the GPU busy is not told"),
    ("PCIe throughput", "nvmlDeviceGetPcieThroughput", (1,), "the bus's share of a slow step is not seen"),
    ("energy", "nvmlDeviceGetTotalEnergyConsumption", (), "energy a sample cannot be told exactly"),
)
"""Readings that no probe makes use of yet: name, call, arguments after the handle, and what its absence would cost.
1 is NVML_GPU_UTILIZATION_SAMPLES, and in the fourth NVML_PCIE_UTIL_RX_BYTES."""


@dataclass(frozen=True, slots=True)
class Link:
    """A PCIe link."""

    generation: int
    width: int
    """Lanes."""


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU. None: the driver does not tell."""

    index: int
    """NVML's, in the order of the PCI bus: what nvidia-smi prints."""
    info: GpuInfo
    readings: tuple[Reading, ...]
    is_mig: bool | None = None
    is_mig_pending: bool | None = None
    """Whether MIG will be on after the next reset."""
    compute_mode: int | None = None
    """0 default, 2 prohibited, 3 exclusive process (nvmlComputeMode_t)."""
    is_persistent: bool | None = None
    """Whether the driver stays loaded while nobody uses the GPU."""
    processes: int | None = None
    """Compute processes on it."""
    used_bytes: int | None = None
    """Memory in use by everyone, the driver's own reserve left out where the driver can tell it."""
    utilisation_ratio: float | None = None
    """The newest sample."""
    throttle_reasons: tuple[str, ...] | None = None
    max_link: Link | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """The NVIDIA driver and what stands for it on this machine."""

    reason: str | None
    """Why NVML cannot be used; None: it can."""
    version: str | None = None
    cuda_version: tuple[int, int] | None = None
    """The newest CUDA that it supports."""
    gpus: tuple[GpuState, ...] = ()
    left_out: tuple[Unavailable, ...] = ()
    """GPUs that this process may not ask about."""
    has_node: bool = False
    """Whether there is a /dev/nvidiactl, without which no program reaches the driver."""
    has_pci: bool = False
    """Whether the PCI bus has a display device of NVIDIA's. A container sees its host's."""


class GpuInspector(Nvml):
    """An NVML session that asks everything once."""

    @classmethod
    def open(cls) -> "GpuInspector":
        """Load the driver's library and start a session. Never raises."""
        return cast("GpuInspector", super().open())

    def inspect(self, *, root: Path = Path("/")) -> Driver:
        """Return what the driver tells. Never raises.

        Args:
            root: Where /dev and /sys hang; another folder in tests.
        """
        infos = self.gpus()
        version = next((info.driver for info in infos if info.driver), None)
        if version is None and self._api is not None:
            version = ask(self._api, "nvmlSystemGetDriverVersion").value
        states = [state for info in infos if (state := self._inspect_gpu(info)) is not None]
        left_out = () if self.reason is not None else self.unavailable
        return Driver(
            reason=self.reason,
            version=version,
            cuda_version=self._read_cuda_version(),
            gpus=tuple(sorted(states, key=lambda state: state.index)),
            left_out=left_out,
            has_node=(root / "dev/nvidiactl").exists(),
            has_pci=has_nvidia_device(root),
        )

    def read_link(self, uuid: str) -> Link | None:
        """Return the PCIe link as it is now; idle, most GPUs let its speed drop."""
        handle = self._ask("nvmlDeviceGetHandleByUUID", uuid)
        if handle.is_refused:
            return None
        return self._read_link(handle.value, "Curr")

    def _inspect_gpu(self, info: GpuInfo) -> GpuState | None:
        handle = self._ask("nvmlDeviceGetHandleByUUID", info.uuid)
        reader = self.device(info.uuid)
        if handle.is_refused or reader is None:
            return None
        index = self._ask("nvmlDeviceGetIndex", handle.value)
        mig = self._ask("nvmlDeviceGetMigMode", handle.value).value
        persistence = self._ask("nvmlDeviceGetPersistenceMode", handle.value)
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", handle.value)
        state, samples = reader.read_state(), reader.drain_utilisation()
        return GpuState(
            index=0 if index.is_refused else int(index.value),
            info=info,
            readings=self._list_readings(handle.value, reader),
            is_mig=None if mig is None else bool(mig[0]),
            is_mig_pending=None if mig is None else bool(mig[1]),
            compute_mode=self._ask("nvmlDeviceGetComputeMode", handle.value).value,
            is_persistent=None if persistence.is_refused else bool(persistence.value),
            processes=None if processes.is_refused else len(processes.value),
            used_bytes=state.memory_bytes,
            utilisation_ratio=samples[-1][1] if samples else None,
            throttle_reasons=state.throttle_reasons,
            max_link=self._read_link(handle.value, "Max"),
        )

    def _list_readings(self, handle: Any, reader: Reader) -> tuple[Reading, ...]:
        missing = {item.reading: item.reason for item in reader.unavailable}
        found = [_describe(name, missing.get(field), cost, is_needed=True) for field, name, cost in READER_NAMES]
        found.append(_describe("performance metrics", reader.gpm_reason(), GPM_COST))
        for name, call, arguments, cost in UNUSED_CALLS:
            answer = self._ask(call, handle, *arguments)
            # "No such thing" is the driver's way to say that nothing is new.
            is_there = not answer.is_refused or answer.code == Code.NOT_FOUND
            found.append(_describe(name, None if is_there else answer.words, cost))
        return tuple(found)

    def _read_cuda_version(self) -> tuple[int, int] | None:
        number = self._ask("nvmlSystemGetCudaDriverVersion").value  # 13000 is CUDA 13.0
        return None if not number else (number // 1000, number % 1000 // 10)

    def _read_link(self, handle: Any, which: str) -> Link | None:
        generation = self._ask(f"nvmlDeviceGet{which}PcieLinkGeneration", handle).value
        width = self._ask(f"nvmlDeviceGet{which}PcieLinkWidth", handle).value
        return Link(int(generation), int(width)) if generation and width else None

    def _ask(self, name: str, *arguments: Any) -> Answer:
        if self._api is None:
            return Answer(code=Code.UNINITIALIZED, words=self.reason or "NVML is closed")
        return ask(self._api, name, *arguments)


def has_nvidia_device(root: Path = Path("/")) -> bool:
    """Say whether the PCI bus has a display or 3D controller of NVIDIA's, with a driver or without."""
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            is_nvidia = (device / "vendor").read_text("ascii").strip() == NVIDIA_VENDOR
            if is_nvidia and (device / "class").read_text("ascii").startswith(DISPLAY_CLASS):
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


def _describe(name: str, reason: str | None, cost: str, *, is_needed: bool = False) -> Reading:
    return Reading(
        name=name,
        is_available=reason is None,
        reason=reason,
        cost=None if reason is None else cost,
        is_needed=is_needed,
    )
