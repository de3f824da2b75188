"""What does the NVIDIA driver say about a GPU? A number, or None with a reason; the only door to pynvml.

It never raises and never guesses: a reading that the driver refuses is dropped once, and the refusal is kept in words.
It opens no CUDA context, and handles are not to be carried across a fork.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from loadtune.monitor.driver_clock import DriverClock
from loadtune.records.resources import GpuInfo, Unavailable

RING_DRY_S = 2.5
"""With no new sample for this long the driver's ring has run dry, as it does on an idle GPU, and the current rate is
asked instead. The sampling period is 1/6 to 1 s and the ring is read once a second; smaller values would mix both
sources on a busy GPU, larger ones leave holes where the GPU was idle."""

UTILISATION = "utilisation_mean_ratio"
MEMORY = "gpu_states.memory_bytes"
POWER = "gpu_states.power_w"
SM_CLOCK = "gpu_states.sm_clock_mhz"
THROTTLE = "gpu_states.throttle_reasons"

THROTTLE_NAMES = {
    0x1: "idle",
    0x2: "application_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "hw_power_brake",
    0x100: "display_clock",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h). Reports hold the names, so they are not to be changed."""


class Code(IntEnum):
    """The return codes of nvml.h that are told apart here."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25


_WORDS: dict[int, str] = {
    Code.NOT_SUPPORTED: "the GPU or its driver does not support it",
    Code.NO_PERMISSION: "the driver gives no permission",
    Code.NOT_FOUND: "the driver knows no such thing",
    Code.DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    Code.LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 not found: no NVIDIA driver, or a container without it",
    Code.FUNCTION_NOT_FOUND: "the driver is too old for it",
    Code.GPU_IS_LOST: "the GPU is lost: it fell off the bus or has an error",
    Code.RESET_REQUIRED: "the GPU must be reset",
    Code.VERSION_MISMATCH: "NVML and the kernel's NVIDIA driver have different versions",
}
_GONE = {
    Code.UNINITIALIZED,
    Code.DRIVER_NOT_LOADED,
    Code.GPU_IS_LOST,
    Code.RESET_REQUIRED,
    Code.VERSION_MISMATCH,
}
_NEVER = {
    Code.INVALID_ARGUMENT,
    Code.NOT_SUPPORTED,
    Code.NO_PERMISSION,
    Code.FUNCTION_NOT_FOUND,
    Code.ARGUMENT_VERSION_MISMATCH,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave: a value, or the code of the refusal."""

    value: Any = None
    code: int | None = None
    words: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether there is no value."""
        return self.code is not None


@dataclass(frozen=True, slots=True)
class GpuReadings:
    """The slower readings at one moment, whole device; None where not available."""

    memory_bytes: int | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None


def ask(api: Any, name: str, *arguments: Any) -> Answer:
    """Call a function of pynvml by name; an old pynvml that lacks it counts as an old driver."""
    call = getattr(api, name, None)
    if call is None:
        return Answer(code=Code.FUNCTION_NOT_FOUND, words="the installed nvidia-ml-py is too old for it")
    try:
        return Answer(value=call(*arguments))
    except api.NVMLError as error:
        # Where the driver says success but has no rows, pynvml raises NVMLError with value 0: nothing found.
        code = error.value or Code.NOT_FOUND
        return Answer(code=code, words=_WORDS.get(code) or f"NVML error {code}: {error}")


class Nvml:
    """An NVML session, or the reason why there is none. Open it in the process that uses it."""

    def __init__(self, api: Any, reason: str | None) -> None:
        self._api = api
        self.reason = reason
        """Why there is no NVML; None: there is."""
        self.refusal: str | None = None
        """Why the last `device` call returned None."""
        self.unavailable: tuple[Unavailable, ...] = ()
        """Why there is no NVML, or which GPUs the last `gpus` call had to leave out."""
        if reason is not None:
            self.unavailable = (Unavailable(reading="gpus", reason=reason),)

    @classmethod
    def open(cls) -> "Nvml":
        """Load the driver's library and start a session. Never raises."""
        try:
            import pynvml
        except ImportError:
            return cls(None, "the package nvidia-ml-py is not installed")
        answer = ask(pynvml, "nvmlInit")
        return cls(None, answer.words) if answer.is_refused else cls(pynvml, None)

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Return every GPU in the order of the PCI bus; CUDA_VISIBLE_DEVICES does not count here."""
        if self._api is None:
            return ()
        count = ask(self._api, "nvmlDeviceGetCount")
        if count.is_refused:
            self.unavailable = (Unavailable(reading="gpus", reason=count.words),)
            return ()
        driver = ask(self._api, "nvmlSystemGetDriverVersion").value
        found, left_out = [], []
        for index in range(count.value):
            handle = ask(self._api, "nvmlDeviceGetHandleByIndex", index)
            uuid = handle if handle.is_refused else ask(self._api, "nvmlDeviceGetUUID", handle.value)
            if uuid.is_refused:
                left_out.append(Unavailable(reading=f"gpus[{index}]", reason=uuid.words))
                continue
            name = ask(self._api, "nvmlDeviceGetName", handle.value).value or "NVIDIA GPU"
            memory = ask(self._api, "nvmlDeviceGetMemoryInfo", handle.value).value
            total = None if memory is None else int(memory.total)
            found.append(GpuInfo(uuid=uuid.value, name=name, memory_bytes=total, driver=driver))
        self.unavailable = tuple(left_out)
        return tuple(found)

    def device(self, uuid: str) -> "GpuReader | None":
        """Return a reader for one GPU or MIG instance; None, with `refusal`, where NVML does not give it.

        Args:
            uuid: "GPU-..." or "MIG-..."; a bare UUID, as torch gives it, is a GPU's.
        """
        if self._api is None:
            self.refusal = self.reason or "NVML is closed"
            return None
        full = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        handle = ask(self._api, "nvmlDeviceGetHandleByUUID", full)
        self.refusal = f"{full}: {handle.words}" if handle.is_refused else None
        return None if handle.is_refused else GpuReader(self._api, handle.value, full)

    def close(self) -> None:
        """End the session. Readers give None from then on."""
        if self._api is not None:
            ask(self._api, "nvmlShutdown")
            self._api = None


class GpuReader:
    """Reads one GPU. What the driver refuses at the start is dropped for good, with one reason a reading.

    Args:
        api: pynvml, or what stands for it in a test.
        handle: NVML's device handle.
        uuid: Named in the reasons.
        monotonic: The trace's clock, seconds.
        driver_clock: Where driver stamps lie on that clock.
    """

    def __init__(
        self,
        api: Any,
        handle: Any,
        uuid: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        driver_clock: DriverClock | None = None,
    ) -> None:
        self.uuid = uuid
        self.lost_reason: str | None = None
        """Why the GPU stopped answering altogether; None: it has not."""
        self._api, self._handle = api, handle
        self._monotonic = monotonic
        self._driver_clock = driver_clock or DriverClock(monotonic)
        self._reasons: dict[str, str] = {}
        self._last_seen_us = 0
        self._newest_s = float("-inf")
        self._memory_arguments: tuple[int, ...] = ()
        self._throttle_call = "nvmlDeviceGetCurrentClocksEventReasons"
        self._has_ring = self._has_rates = True
        self._probe()

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """One entry for each reading that is None from now on."""
        return tuple(Unavailable(reading=name, reason=why) for name, why in self._reasons.items())

    def drain_utilisation(self) -> list[tuple[float, float]]:
        """Return the utilisation samples since the last call, oldest first.

        Each is (time.monotonic() seconds at the end of its period, share 0..1 of it with a kernel running). Where
        the driver keeps no ring, or the ring has run dry, it is the current rate, stamped with this call's time.
        """
        if self.lost_reason is not None or UTILISATION in self._reasons:
            return []
        samples = self._drain_ring() if self._has_ring else []
        now_s = self._monotonic()
        if samples:
            self._newest_s = samples[-1][0]
        elif self._has_rates and (not self._has_ring or now_s - self._newest_s >= RING_DRY_S):
            rates = self._ask(UTILISATION, "nvmlDeviceGetUtilizationRates")
            if not rates.is_refused:
                samples = _ratios([(now_s, rates.value.gpu)])
        return samples

    def read_state(self) -> GpuReadings:
        """Return memory, power, clock and throttle reasons as of now."""
        memory = self._read(MEMORY, "nvmlDeviceGetMemoryInfo", *self._memory_arguments)
        power_mw = self._read(POWER, "nvmlDeviceGetPowerUsage")
        clock_mhz = self._read(SM_CLOCK, "nvmlDeviceGetClockInfo", getattr(self._api, "NVML_CLOCK_SM", 1))
        mask = self._read(THROTTLE, self._throttle_call)
        return GpuReadings(
            memory_bytes=None if memory is None else int(memory.used),
            power_w=None if power_mw is None else power_mw / 1000,
            sm_clock_mhz=None if clock_mhz is None else int(clock_mhz),
            throttle_reasons=None if mask is None else name_throttle_reasons(int(mask)),
        )

    def gpm_reason(self) -> str | None:
        """Return why there are no GPU performance metrics (Hopper and newer have them); None: there are."""
        support = ask(self._api, "nvmlGpmQueryDeviceSupport", self._handle)
        if support.is_refused:
            return support.words
        return None if support.value.isSupportedDevice else "the driver says that this GPU has none"

    def _probe(self) -> None:
        """Ask everything once, so that what is missing is known before the trial."""
        ring = self._ask_ring()
        self._has_ring = ring.code not in _NEVER
        rates = ask(self._api, "nvmlDeviceGetUtilizationRates", self._handle)
        self._has_rates = rates.code not in _NEVER
        if not self._has_ring and not self._has_rates:
            why = "MIG instances have no utilisation" if self.uuid.startswith("MIG-") else rates.words
            self._reasons[UTILISATION] = why
        # Version 2 leaves the driver's own reserve out of what is used; drivers before it have version 1 only.
        version = getattr(self._api, "nvmlMemory_v2", None)
        if version is not None:
            self._memory_arguments = (version,)
            if ask(self._api, "nvmlDeviceGetMemoryInfo", self._handle, version).code in _NEVER:
                self._memory_arguments = ()
        if ask(self._api, self._throttle_call, self._handle).code == Code.FUNCTION_NOT_FOUND:
            self._throttle_call = "nvmlDeviceGetCurrentClocksThrottleReasons"  # its name before driver 535
        self.read_state()

    def _drain_ring(self) -> list[tuple[float, float]]:
        answer = self._ask_ring()
        if answer.is_refused:  # NOT_FOUND is the driver's way to say that nothing is new
            self._has_ring = answer.code not in _NEVER
            self._note_lost(answer)
            return []
        fresh = {int(sample.timeStamp): int(sample.sampleValue.uiVal) for sample in answer.value[1]}
        fresh = {stamp: percent for stamp, percent in fresh.items() if stamp > self._last_seen_us}
        if not fresh:
            return []
        # Only stamps that NVML itself returned may be handed back to it: its clock is its own.
        self._last_seen_us = max(fresh)
        offset_s = self._driver_clock.offset_s(self._last_seen_us / 1e6)
        return _ratios([(stamp / 1e6 + offset_s, fresh[stamp]) for stamp in sorted(fresh)])

    def _ask_ring(self) -> Answer:
        kind = getattr(self._api, "NVML_GPU_UTILIZATION_SAMPLES", 1)
        return ask(self._api, "nvmlDeviceGetSamples", self._handle, kind, self._last_seen_us)

    def _read(self, reading: str, name: str, *arguments: Any) -> Any:
        if self.lost_reason is not None or reading in self._reasons:
            return None
        return self._ask(reading, name, *arguments).value

    def _ask(self, reading: str, name: str, *arguments: Any) -> Answer:
        """Ask about this device; a refusal that will not change drops the reading."""
        answer = ask(self._api, name, self._handle, *arguments)
        if answer.code in _NEVER:
            self._reasons[reading] = answer.words
        self._note_lost(answer)
        return answer

    def _note_lost(self, answer: Answer) -> None:
        if answer.code in _GONE and self.lost_reason is None:
            self.lost_reason = answer.words
            for reading in (UTILISATION, MEMORY, POWER, SM_CLOCK, THROTTLE):
                self._reasons.setdefault(reading, answer.words)


def name_throttle_reasons(mask: int) -> tuple[str, ...]:
    """Return the names of the set bits, lowest first.

    >>> name_throttle_reasons(0x24)
    ('sw_power_cap', 'sw_thermal')
    """
    bits = [1 << place for place in range(mask.bit_length()) if mask >> place & 1]
    return tuple(THROTTLE_NAMES.get(bit, f"unknown_{bit:#x}") for bit in bits)


def _ratios(samples: list[tuple[float, int]]) -> list[tuple[float, float]]:
    """Turn percent into ratios. Above 100 is garbage that some drivers give: not known, so left out."""
    return [(at_s, percent / 100) for at_s, percent in samples if 0 <= percent <= 100]
