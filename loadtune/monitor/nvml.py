"""Which GPUs does the driver know, and may they be read? The session with NVIDIA's driver; the only door to pynvml.

Where there is no NVIDIA driver and AMD's is there, the same session reads AMD's GPUs (`amd`).
"""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from loadtune.monitor.amd import AmdSmi
from loadtune.monitor.gpu import Reader
from loadtune.monitor.gpu_reader import CLOCK_SM, GpuReader
from loadtune.monitor.nvml_answer import Answer, Code, Device, ask
from loadtune.monitor.visible_devices import find_visible, mig_instance
from loadtune.records.resources import GpuInfo, Unavailable

MIG_UNKNOWN = "MIG is enabled, and which of its instances is used is not known"


class Nvml:
    """A session with the GPU driver, or the reason why there is none. Open it in the process that uses it.

    Args:
        api: pynvml, or what stands for it in a test; None: there is no NVIDIA driver.
        reason: Why there is no driver at all; None: there is one.
        amd: AMD's driver, where that is the one.
        environ: Holds CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, as the trials inherit them.
    """

    def __init__(
        self, api: Any, reason: str | None, amd: AmdSmi | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._api, self._amd = api, amd
        self._environ = os.environ if environ is None else environ
        self.reason = reason
        """Why there is no driver; None: there is."""
        self.refusal: str | None = None
        """Why the last `device` call returned None."""
        self.unavailable: tuple[Unavailable, ...] = ()
        """Why there is no driver, or which GPUs the last `gpus` call had to leave out."""
        if reason is not None:
            self.unavailable = (Unavailable(reading="gpus", reason=reason),)

    @classmethod
    def open(cls) -> "Nvml":
        """Load the driver's library and start a session. Never raises."""
        try:
            import pynvml
        except ImportError:
            reason = "the package nvidia-ml-py is not installed"
        else:
            answer = ask(pynvml, "nvmlInit")
            if not answer.is_refused:
                return cls(pynvml, None)
            reason = answer.words
        amd = AmdSmi.open()
        return cls(None, None, amd) if amd is not None else cls(None, reason)

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Return every GPU in the order of the PCI bus, with its index under CUDA_VISIBLE_DEVICES where it has one."""
        if self._amd is not None:
            return self._amd.gpus()
        if self._api is None:
            return ()
        count = ask(self._api, "nvmlDeviceGetCount")
        if count.is_refused:
            self.unavailable = (Unavailable(reading="gpus", reason=count.words),)
            return ()
        driver = ask(self._api, "nvmlSystemGetDriverVersion").value
        found: list[GpuInfo] = []
        left_out = []
        for index in range(count.value):
            handle = ask(self._api, "nvmlDeviceGetHandleByIndex", index)
            uuid = handle if handle.is_refused else ask(self._api, "nvmlDeviceGetUUID", handle.value)
            if uuid.is_refused:
                left_out.append(Unavailable(reading=f"gpus[{index}]", reason=uuid.words))
            else:
                found.append(self._describe(handle.value, uuid.value, driver))
        visible = find_visible(
            self._environ.get("CUDA_VISIBLE_DEVICES"), self._environ.get("CUDA_DEVICE_ORDER"), tuple(found)
        )
        if visible.reason is not None:
            left_out.append(Unavailable(reading="gpus.cuda_index", reason=visible.reason))
        self.unavailable = tuple(left_out)
        return tuple(_with_index(gpu, visible.uuids) for gpu in found)

    def device(self, uuid: str) -> Reader | None:
        """Return a reader for one GPU or MIG instance; None, with `refusal`, where the driver does not give it.

        Args:
            uuid: "GPU-..." or "MIG-..."; a bare UUID, as torch gives it, is either's.
        """
        if self._amd is not None:
            reader = self._amd.device(uuid)
            self.refusal = None if reader is not None else f"{uuid}: AMD's driver knows no such GPU"
            return reader
        if self._api is None:
            self.refusal = self.reason or "the session is closed"
            return None
        full, handle = self._find(uuid)
        self.refusal = f"{full}: {handle.words}" if handle.is_refused else None
        return None if handle.is_refused else GpuReader(Device(self._api, handle.value, full))

    def close(self) -> None:
        """End the session. Readers give None from then on."""
        if self._amd is not None:
            self._amd.close()
        if self._api is not None:
            ask(self._api, "nvmlShutdown")
        self._api = self._amd = None

    def _find(self, uuid: str) -> tuple[str, Answer]:
        """Return name and handle of a device.

        CUDA's UUID of a MIG instance is the instance's own, or, from some versions, its GPU's: then the instance is
        the one that CUDA_VISIBLE_DEVICES names, or the only one there is.
        """
        bare = uuid.removeprefix("GPU-")
        names = [uuid] if uuid.startswith("MIG-") else [f"GPU-{bare}", f"MIG-{bare}"]
        asked = mig_instance(self._environ.get("CUDA_VISIBLE_DEVICES"))
        refused: list[tuple[str, Answer]] = []
        for name in names:
            handle = ask(self._api, "nvmlDeviceGetHandleByUUID", name)
            if not handle.is_refused:
                return self._without_division(name, handle, asked)
            refused.append((name, handle))
            if handle.code not in {Code.NOT_FOUND, Code.INVALID_ARGUMENT}:
                return name, handle
        if asked is not None and asked not in names:
            handle = ask(self._api, "nvmlDeviceGetHandleByUUID", asked)
            if not handle.is_refused:
                return self._name(handle, asked), handle
        return refused[0]

    def _without_division(self, name: str, handle: Answer, asked: str | None) -> tuple[str, Answer]:
        """Return the instance that is used of a divided GPU; anything else as it is."""
        if name.startswith("MIG-") or not self._is_divided(handle.value):
            return name, handle
        instances = self._instances(handle.value)
        wanted = ask(self._api, "nvmlDeviceGetHandleByUUID", asked) if asked is not None else None
        if wanted is not None and not wanted.is_refused and asked is not None:
            return self._name(wanted, asked), wanted
        if len(instances) == 1:
            return self._name(instances[0], name), instances[0]
        return name, Answer(code=Code.NOT_FOUND, words=MIG_UNKNOWN)

    def _describe(self, handle: Any, uuid: str, driver: str | None) -> GpuInfo:
        memory = ask(self._api, "nvmlDeviceGetMemoryInfo", handle).value
        return GpuInfo(
            uuid=uuid,
            name=ask(self._api, "nvmlDeviceGetName", handle).value or "NVIDIA GPU",
            memory_bytes=None if memory is None else int(memory.total),
            driver=driver,
            mig_uuids=tuple(self._name(each, "") for each in self._instances(handle)),
            max_sm_clock_mhz=ask(self._api, "nvmlDeviceGetMaxClockInfo", handle, CLOCK_SM).value,
            pcie_max_generation=ask(self._api, "nvmlDeviceGetMaxPcieLinkGeneration", handle).value,
            pcie_max_width=ask(self._api, "nvmlDeviceGetMaxPcieLinkWidth", handle).value,
        )

    def _is_divided(self, handle: Any) -> bool:
        mode = ask(self._api, "nvmlDeviceGetMigMode", handle)
        return not mode.is_refused and bool(mode.value[0])

    def _instances(self, handle: Any) -> list[Answer]:
        """Return the handles of a GPU's MIG instances; empty slots are passed over."""
        if not self._is_divided(handle):
            return []
        slots = ask(self._api, "nvmlDeviceGetMaxMigDeviceCount", handle).value or 0
        found = [ask(self._api, "nvmlDeviceGetMigDeviceHandleByIndex", handle, slot) for slot in range(slots)]
        return [answer for answer in found if not answer.is_refused]

    def _name(self, handle: Answer, otherwise: str) -> str:
        return str(ask(self._api, "nvmlDeviceGetUUID", handle.value).value or otherwise)


def _with_index(gpu: GpuInfo, visible: tuple[str, ...]) -> GpuInfo:
    """Return a GPU with the index at which CUDA shows it or one of its instances."""
    shown = [index for index, uuid in enumerate(visible) if uuid == gpu.uuid or uuid in gpu.mig_uuids]
    older_form = [index for index, uuid in enumerate(visible) if uuid.startswith(f"MIG-{gpu.uuid}/")]
    places = shown or older_form
    return msgspec.structs.replace(gpu, cuda_index=places[0]) if places else gpu
