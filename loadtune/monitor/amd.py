"""What does AMD's driver say about a GPU? The few readings that the diagnosis rests on; the only door to amdsmi.

`amdsmi` comes with ROCm and is never required. Nothing here has been run on an AMD GPU by this project: a scripted
module stands for it in the tests.
"""

import time
from collections.abc import Callable
from typing import Any

from loadtune.monitor.gpu import MEMORY, POWER, READINGS, SM_CLOCK, THROTTLE, UTILISATION, DriverSampling, GpuReadings
from loadtune.records.resources import GpuInfo, Unavailable

MIB = 1 << 20

NOT_READ = "loadtune does not read it from AMD's driver"

NOT_GIVEN = "AMD's driver does not give it for this GPU"


class AmdSmi:
    """A session with AMD's driver.

    Args:
        api: The module amdsmi, or what stands for it in a test; it is initialised.
    """

    def __init__(self, api: Any) -> None:
        self._api = api

    @classmethod
    def open(cls) -> "AmdSmi | None":
        """Load the library and start a session; None where there is none. Never raises."""
        try:
            import amdsmi

            amdsmi.amdsmi_init()
        except Exception:  # noqa: BLE001 - the import itself looks for a library, and raises whatever that raises
            return None
        return cls(amdsmi)

    def gpus(self) -> tuple[GpuInfo, ...]:
        """Return every GPU in the driver's order."""
        return tuple(self._describe(handle) for handle in self._handles())

    def device(self, uuid: str) -> "AmdReader | None":
        """Return a reader for the GPU of this UUID, as torch gives it; None where there is no such GPU.

        HIP's UUID is the sixteen letters of the GPU's serial, as the driver names it, and torch writes their bytes in
        hexadecimal.
        """
        handles = self._handles()
        wanted = _serials(uuid)
        for handle in handles:
            if self._serial(handle) in wanted:
                return AmdReader(self._api, handle, uuid)
        return AmdReader(self._api, handles[0], uuid) if len(handles) == 1 else None

    def close(self) -> None:
        """End the session."""
        _ask(self._api, "amdsmi_shut_down")

    def _handles(self) -> list[Any]:
        return _ask(self._api, "amdsmi_get_processor_handles") or []

    def _serial(self, handle: Any) -> str | None:
        told = (_ask(self._api, "amdsmi_get_gpu_asic_info", handle) or {}).get("asic_serial")
        return None if told in {None, "N/A", ""} else str(told).lower().removeprefix("0x")

    def _describe(self, handle: Any) -> GpuInfo:
        asic = _ask(self._api, "amdsmi_get_gpu_asic_info", handle) or {}
        memory = _number(_ask(self._api, "amdsmi_get_gpu_vram_usage", handle), "vram_total")
        driver = (_ask(self._api, "amdsmi_get_gpu_driver_info", handle) or {}).get("driver_version")
        return GpuInfo(
            uuid=f"GPU-{self._serial(handle) or 'unknown'}",
            name=str(asic.get("market_name") or "AMD GPU"),
            memory_bytes=None if memory is None else int(memory) * MIB,
            driver=None if driver is None else str(driver),
        )


class AmdReader:
    """Reads one AMD GPU. What it does not give at the start is dropped for good, with one reason a reading.

    Args:
        api: amdsmi.
        handle: Of the GPU.
        uuid: As it was asked for.
        monotonic: The trace's clock, seconds.
    """

    lost_reason: str | None = None

    def __init__(self, api: Any, handle: Any, uuid: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.uuid = uuid
        self._api, self._handle, self._monotonic = api, handle, monotonic
        read = {UTILISATION: self._utilisation, **self._sources()}
        self._reasons = {name: NOT_READ for name in READINGS if name not in read}
        self._reasons |= {name: NOT_GIVEN for name, source in read.items() if source() is None}

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """One entry for each reading that is None from now on."""
        return tuple(Unavailable(reading=name, reason=why) for name, why in self._reasons.items())

    def drain_utilisation(self) -> list[tuple[float, float]]:
        """Return the current rate, stamped with this call's time: AMD's driver keeps no samples."""
        ratio = None if UTILISATION in self._reasons else self._utilisation()
        return [] if ratio is None else [(self._monotonic(), ratio)]

    def read_state(self) -> GpuReadings:
        """Return memory, power, clock and whether it throttles, as of now."""
        found = {name: None if name in self._reasons else source() for name, source in self._sources().items()}
        memory, clock, throttled = found[MEMORY], found[SM_CLOCK], found[THROTTLE]
        return GpuReadings(
            memory_bytes=None if memory is None else int(memory) * MIB,
            power_w=found[POWER],
            sm_clock_mhz=None if clock is None else int(clock),
            throttle_reasons=None if throttled is None else ("throttled",) if throttled else (),
        )

    def read_sampling(self) -> DriverSampling | None:
        """Return None: the driver keeps no samples that can be asked for."""
        return None

    def gpm_reason(self) -> str | None:
        """Return why there are no GPU performance metrics."""
        return NOT_READ

    def close(self) -> None:
        """Do nothing: the driver holds nothing for it."""

    def _sources(self) -> dict[str, Callable[[], float | None]]:
        return {MEMORY: self._memory, POWER: self._power, SM_CLOCK: self._clock, THROTTLE: self._throttle}

    def _utilisation(self) -> float | None:
        percent = _number(_ask(self._api, "amdsmi_get_gpu_activity", self._handle), "gfx_activity")
        return percent / 100 if percent is not None and 0 <= percent <= 100 else None

    def _memory(self) -> float | None:
        return _number(_ask(self._api, "amdsmi_get_gpu_vram_usage", self._handle), "vram_used")

    def _power(self) -> float | None:
        power = _ask(self._api, "amdsmi_get_power_info", self._handle)
        average = _number(power, "average_socket_power")
        return average if average is not None else _number(power, "current_socket_power")

    def _clock(self) -> float | None:
        clocks = _ask(self._api, "amdsmi_get_clock_info", self._handle, self._api.AmdSmiClkType.GFX)
        current = _number(clocks, "clk")
        return current if current is not None else _number(clocks, "cur_clk")  # its name before ROCm 6.2

    def _throttle(self) -> float | None:
        return _number(_ask(self._api, "amdsmi_get_gpu_metrics_info", self._handle), "throttle_status")


def _ask(api: Any, name: str, *arguments: Any) -> Any:
    """Return what a function of amdsmi gives; None where it refuses, or is not there."""
    call = getattr(api, name, None)
    try:
        return None if call is None else call(*arguments)
    except api.AmdSmiException:
        return None


def _number(found: Any, key: str) -> float | None:
    """Return a number of a dictionary; amdsmi writes "N/A" where there is none."""
    value = None if found is None else found.get(key)
    return float(value) if isinstance(value, bool | int | float) else None


def _serials(uuid: str) -> set[str]:
    """Return the serials that a UUID may stand for: as the driver writes it, or the letters behind its hexadecimal.

    >>> "67e0a25cebf3819a" in _serials("GPU-36376530-6132-3563-6562-663338313961")
    True
    """
    bare = uuid.lower().removeprefix("gpu-")
    digits = bare.replace("-", "")
    found = {bare, digits}
    try:
        found.add(bytes.fromhex(digits).decode("ascii").strip("\0"))
    except (ValueError, UnicodeDecodeError):
        return found
    return found
