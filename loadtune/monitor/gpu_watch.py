"""Which GPU does the trial use, and what did its readings show? The GPU's part of the sampler.

It opens a reader when the trial has named its GPU, reads about once a second, and keeps what was read. It runs in the
sampler's thread; only `use` is called from another.
"""

import time
from collections.abc import Callable, Collection

import msgspec

from loadtune.monitor.gpu import READ_TOGETHER, UTILISATION, GpuReadings, Reader
from loadtune.monitor.gpu_processes import find_others, shares_driver_pids
from loadtune.monitor.gpu_trace import GpuPoint, compute_gpu_use
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.trace import NOTHING_IN_INTERVAL, Interval
from loadtune.records.resources import GpuSample, GpuState, GpuUse

GPU_INTERVAL_S = 1.0
"""Time between GPU readings. The driver keeps about 16 s of utilisation, so nothing is missed; power is a 1 s mean."""

TOO_FEW = "too few utilisation samples while measuring"


class GpuWatch:
    """Follows one GPU.

    Args:
        nvml: An open session; None: the GPU is not watched.
        clock: Monotonic seconds, the trace's clock.
        shares_pids: Whether the driver numbers processes as this process sees them; None: it is found out.
    """

    def __init__(
        self, nvml: Nvml | None, clock: Callable[[], float] = time.monotonic, *, shares_pids: bool | None = None
    ) -> None:
        self._nvml, self._clock = nvml, clock
        self._shares_pids = shares_driver_pids() if shares_pids is None else shares_pids
        self._uuid: str | None = None
        self._opened: str | None = None
        self._reader: Reader | None = None
        self._next_s = float("-inf")
        self._samples: list[tuple[float, float]] = []
        self._points: list[GpuPoint] = []

    def use(self, uuid: str) -> None:
        """Watch this GPU from the next reading on."""
        self._uuid = uuid

    def tick(self, now_s: float, own_pids: Collection[int], trials: int, *, at_once: bool = False) -> None:
        """Read the GPU if it is time to.

        Args:
            now_s: The clock's time.
            own_pids: Processes of the watched trials.
            trials: How many trials are watched.
            at_once: Whether to read although it is not time yet.
        """
        if self._uuid is None or (now_s < self._next_s and not at_once):
            return
        self._next_s = now_s + GPU_INTERVAL_S
        if self._reader is None or self._opened != self._uuid:
            self._reader = None if self._nvml is None else self._nvml.device(self._uuid)
            self._opened = self._uuid
        if self._reader is not None:
            self._samples += self._reader.drain_utilisation()
            readings = self._reader.read_state()
            others = find_others(readings, own_pids, trials, shares_pids=self._shares_pids)
            self._points.append(GpuPoint(self._clock(), readings, others))

    def close(self) -> None:
        """Give back what the driver holds. What was read stays."""
        if self._reader is not None:
            self._reader.close()

    def samples(self, since_s: float) -> list[GpuSample]:
        """Return the utilisation since then, oldest first. The driver's ring also holds what was before."""
        found = [(at_s - since_s, ratio) for at_s, ratio in self._samples if at_s >= since_s]
        return [GpuSample(at_s=at_s, utilisation_ratio=ratio) for at_s, ratio in sorted(found)]

    def states(self, since_s: float) -> list[GpuState]:
        """Return the slower readings since then; moments at which the driver gave none are left out."""
        return [
            GpuState(
                at_s=point.at_monotonic_s - since_s,
                memory_bytes=point.readings.memory_bytes,
                power_w=point.readings.power_w,
                sm_clock_mhz=point.readings.sm_clock_mhz,
                throttle_reasons=point.readings.throttle_reasons,
            )
            for point in self._points
            if _has_state(point.readings)
        ]

    def use_within(self, measuring: Interval | None) -> tuple[GpuUse | None, dict[str, str]]:
        """Return what the GPU did within an interval, and the reason for each field of it that is None."""
        if self._uuid is None:
            return None, {}
        use, unused = compute_gpu_use(self._points, measuring)
        if use is None:
            return None, {"gpu_use": self.reason() if self._reader is None else NOTHING_IN_INTERVAL}
        refused = self._refused()
        missing = [f"gpu_use.{name}" for name, value in msgspec.structs.asdict(use).items() if value is None]
        reasons = {
            name: refused.get(kind) or unused.get(kind) or NOTHING_IN_INTERVAL
            for name in missing
            if (kind := READ_TOGETHER.get(name, name))
        }
        return use, reasons

    def refusals(self) -> dict[str, str]:
        """Return why series of the trace are missing, and why the GPU went away if it did."""
        found = {name: why for name, why in self._refused().items() if name.startswith("gpu_states.")}
        if self._reader is not None and self._reader.lost_reason is not None:
            found["gpu"] = self._reader.lost_reason
        return found

    def reason(self) -> str:
        """Return why there is no utilisation."""
        if self._nvml is None:
            return "NVML is not used"
        if self._nvml.reason is not None:
            return self._nvml.reason
        if self._uuid is None:
            return "the trial names no GPU"
        if self._reader is None:
            return self._nvml.refusal or f"{self._uuid} was never read"
        return self._refused().get(UTILISATION) or TOO_FEW

    def _refused(self) -> dict[str, str]:
        return {} if self._reader is None else {item.reading: item.reason for item in self._reader.unavailable}


def _has_state(readings: GpuReadings) -> bool:
    shown = (readings.memory_bytes, readings.power_w, readings.sm_clock_mhz, readings.throttle_reasons)
    return any(value is not None for value in shown)
