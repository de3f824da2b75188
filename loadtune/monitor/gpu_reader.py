"""What does the NVIDIA driver say about one GPU? Every reading a number, or None with a reason.

It never raises and never guesses: a reading that the driver refuses is dropped once, and the refusal is kept in words.
It opens no CUDA context, and handles are not to be carried across a fork.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from loadtune.monitor.driver_clock import DriverClock
from loadtune.monitor.gpu import (
    ENERGY,
    MEMORY,
    PCIE_LINK,
    POWER,
    SM_CLOCK,
    THROTTLE,
    UTILISATION,
    DriverSampling,
    GpuReadings,
)
from loadtune.monitor.gpu_processes import Processes
from loadtune.monitor.nvml_answer import NEVER, Answer, Code, Device, ask
from loadtune.monitor.nvml_counters import FieldCounters
from loadtune.monitor.nvml_gpm import Gpm
from loadtune.records.resources import Unavailable

RING_DRY_S = 2.5
"""With no new sample for this long the driver's ring has run dry, as it does on an idle GPU, and the current rate is
asked instead. The sampling period is 1/6 to 1 s and the ring is read once a second; smaller values would mix both
sources on a busy GPU, larger ones leave holes where the GPU was idle."""

MIG_HAS_NONE = "MIG is enabled: the driver counts no utilisation"

GPU_UTILIZATION_SAMPLES = 1
"""nvmlSamplingType_t: share of each sampling period with a kernel running."""

CLOCK_SM = 1
"""nvmlClockType_t: the multiprocessors' clock."""

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


class GpuReader:
    """Reads one GPU. What the driver refuses at the start is dropped for good, with one reason a reading.

    Args:
        device: Which.
        monotonic: The trace's clock, seconds.
        driver_clock: Where driver stamps lie on that clock.
    """

    def __init__(
        self,
        device: Device,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        driver_clock: DriverClock | None = None,
    ) -> None:
        self.uuid = device.uuid
        self._device, self._api = device, device.api
        self._monotonic = monotonic
        self._driver_clock = driver_clock or DriverClock(monotonic)
        self._last_seen_us = 0
        self._newest_s = float("-inf")
        self._memory_arguments: tuple[int, ...] = ()
        self._throttle_call = "nvmlDeviceGetCurrentClocksEventReasons"
        self._has_ring = self._has_rates = True
        self._counters = FieldCounters(device)
        self._processes = Processes(device)
        self._gpm = Gpm(device, monotonic)
        self._probe()

    @property
    def lost_reason(self) -> str | None:
        """Why the GPU stopped answering altogether; None: it has not."""
        return self._device.lost_reason

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """One entry for each reading that is None from now on."""
        return tuple(Unavailable(reading=name, reason=why) for name, why in self._device.reasons.items())

    def drain_utilisation(self) -> list[tuple[float, float]]:
        """Return the utilisation samples since the last call, oldest first.

        Each is (time.monotonic() seconds at the end of its period, share 0..1 of it with a kernel running). Where
        the driver keeps no ring, or the ring has run dry, it is the current rate, stamped with this call's time.
        """
        if self._device.is_dropped(UTILISATION):
            return []
        samples = self._drain_ring() if self._has_ring else []
        now_s = self._monotonic()
        if samples:
            self._newest_s = samples[-1][0]
        elif self._has_rates and (not self._has_ring or now_s - self._newest_s >= RING_DRY_S):
            rates = self._device.ask(UTILISATION, "nvmlDeviceGetUtilizationRates")
            if not rates.is_refused:
                samples = _ratios([(now_s, rates.value.gpu)])
        return samples

    def read_state(self) -> GpuReadings:
        """Return memory, power, clocks, link, counters, metrics and processes as of now."""
        read = self._device.read
        memory = read(MEMORY, "nvmlDeviceGetMemoryInfo", *self._memory_arguments)
        power_mw = read(POWER, "nvmlDeviceGetPowerUsage")
        clock_mhz = read(SM_CLOCK, "nvmlDeviceGetClockInfo", CLOCK_SM)
        mask = read(THROTTLE, self._throttle_call)
        energy_mj = read(ENERGY, "nvmlDeviceGetTotalEnergyConsumption")
        generation = read(PCIE_LINK, "nvmlDeviceGetCurrPcieLinkGeneration")
        width = read(PCIE_LINK, "nvmlDeviceGetCurrPcieLinkWidth")
        throttled_s, moved = self._counters.read()
        return GpuReadings(
            memory_bytes=None if memory is None else int(memory.used),
            power_w=None if power_mw is None else power_mw / 1000,
            sm_clock_mhz=None if clock_mhz is None else int(clock_mhz),
            throttle_reasons=None if mask is None else name_throttle_reasons(int(mask)),
            energy_j=None if energy_mj is None else energy_mj / 1000,
            throttled_s=throttled_s,
            pcie_rx_bytes=None if moved is None else moved["rx"],
            pcie_tx_bytes=None if moved is None else moved["tx"],
            pcie_generation=generation,
            pcie_width=width,
            gpm=self._gpm.read(),
            pids=self._processes.read_pids(),
            sm_ratio_by_pid=self._processes.read_use(),
        )

    def read_sampling(self) -> DriverSampling | None:
        """Return how the driver samples utilisation, from all that its ring holds; None where it keeps none."""
        answer = ask(self._api, "nvmlDeviceGetSamples", self._device.handle, GPU_UTILIZATION_SAMPLES, 0)
        if answer.is_refused:
            return None
        stamps_s = sorted({int(sample.timeStamp) / 1e6 for sample in answer.value[1] if sample.timeStamp})
        if not stamps_s:
            return None
        offset_s = self._driver_clock.offset_s(stamps_s[-1])
        steps_s = [later - earlier for earlier, later in pairwise(stamps_s)]
        return DriverSampling(
            samples=len(stamps_s),
            period_s=median(steps_s) if steps_s else None,
            span_s=stamps_s[-1] - stamps_s[0],
            clock=self._driver_clock.domain or "arrival",
            age_s=self._monotonic() - (stamps_s[-1] + offset_s),
        )

    def gpm_reason(self) -> str | None:
        """Return why there are no GPU performance metrics (Hopper and newer have them); None: there are."""
        return self._gpm.find_reason()

    def close(self) -> None:
        """Give back what the driver holds for it."""
        self._gpm.close()

    def _probe(self) -> None:
        """Ask everything once, so that what is missing is known before the trial."""
        ring = self._ask_ring()
        self._has_ring = ring.code not in NEVER
        rates = ask(self._api, "nvmlDeviceGetUtilizationRates", self._device.handle)
        self._has_rates = rates.code not in NEVER
        if not self._has_ring and not self._has_rates:
            self._device.drop(UTILISATION, MIG_HAS_NONE if self._is_mig() else rates.words)
        # Version 2 leaves the driver's own reserve out of what is used; drivers before it have version 1 only.
        version = getattr(self._api, "nvmlMemory_v2", None)
        if version is not None:
            self._memory_arguments = (version,)
            if ask(self._api, "nvmlDeviceGetMemoryInfo", self._device.handle, version).code in NEVER:
                self._memory_arguments = ()
        if ask(self._api, self._throttle_call, self._device.handle).code == Code.FUNCTION_NOT_FOUND:
            self._throttle_call = "nvmlDeviceGetCurrentClocksThrottleReasons"  # its name before driver 535
        self.read_state()

    def _is_mig(self) -> bool:
        """Say whether this is a MIG instance, or a GPU that is divided into some."""
        mode = ask(self._api, "nvmlDeviceGetMigMode", self._device.handle)
        return self.uuid.startswith("MIG-") or (not mode.is_refused and bool(mode.value[0]))

    def _drain_ring(self) -> list[tuple[float, float]]:
        answer = self._ask_ring()
        if answer.is_refused:  # NOT_FOUND is the driver's way to say that nothing is new
            self._has_ring = answer.code not in NEVER
            self._device.note_lost(answer)
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
        handle = self._device.handle
        return ask(self._api, "nvmlDeviceGetSamples", handle, GPU_UTILIZATION_SAMPLES, self._last_seen_us)


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
