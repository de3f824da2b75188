"""What can be read of a GPU, whoever made it? The readings by name, their values at one moment, and a reader's promise.

It asks no driver: `gpu_reader` does for NVIDIA's, `amd` for AMD's.
"""

from dataclasses import dataclass
from typing import Protocol

from loadtune.records.resources import Unavailable

UTILISATION = "utilisation_mean_ratio"
MEMORY = "gpu_states.memory_bytes"
POWER = "gpu_states.power_w"
SM_CLOCK = "gpu_states.sm_clock_mhz"
THROTTLE = "gpu_states.throttle_reasons"
ENERGY = "gpu_use.energy_j"
THROTTLED = "gpu_use.throttled"
PCIE_BYTES = "gpu_use.pcie_rx_bytes_per_s"
PCIE_LINK = "gpu_use.pcie_generation"
GPM = "gpu_use.sm_active_ratio"
PROCESSES = "gpu_use.other_processes"
PROCESS_UTILISATION = "gpu_use.other_sm_ratio"

READINGS = (
    UTILISATION, MEMORY, POWER, SM_CLOCK, THROTTLE, ENERGY, THROTTLED, PCIE_BYTES, PCIE_LINK, GPM, PROCESSES,
    PROCESS_UTILISATION,
)  # fmt: skip
"""Every kind of reading, by the field of a trace that it fills; of fields that are read together, by the first."""

READ_TOGETHER = {
    "jitter_ratio": UTILISATION,
    "gpu_use.mean_power_w": ENERGY,
    "gpu_use.pcie_tx_bytes_per_s": PCIE_BYTES,
    "gpu_use.pcie_width": PCIE_LINK,
    "gpu_use.sm_occupancy_ratio": GPM,
    "gpu_use.tensor_active_ratio": GPM,
    "gpu_use.dram_active_ratio": GPM,
}
"""The other fields of a trace, and the reading whose refusal explains them too."""


@dataclass(frozen=True, slots=True)
class GpmReadings:
    """GPU performance metrics since the reading before, shares 0..1; None where the driver leaves one out."""

    sm_active_ratio: float | None = None
    sm_occupancy_ratio: float | None = None
    tensor_active_ratio: float | None = None
    dram_active_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class GpuReadings:
    """One GPU at one moment, the whole device; None where not available. Counters count since the driver was loaded."""

    memory_bytes: int | None = None
    power_w: float | None = None
    sm_clock_mhz: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    energy_j: float | None = None
    """Counter."""
    throttled_s: dict[str, float] | None = None
    """Counters by cause: seconds for which it held the clocks down."""
    pcie_rx_bytes: int | None = None
    """Counter: to the GPU. It may wrap."""
    pcie_tx_bytes: int | None = None
    """Counter: from the GPU. It may wrap."""
    pcie_generation: int | None = None
    """Of the link as it runs now; it falls when the GPU idles."""
    pcie_width: int | None = None
    gpm: GpmReadings | None = None
    pids: frozenset[int] | None = None
    """Processes that compute on it, numbered as the driver does: not as a container does."""
    sm_ratio_by_pid: dict[int, float] | None = None
    """Share of time since the reading before in which a process had a kernel running."""


@dataclass(frozen=True, slots=True)
class DriverSampling:
    """How the driver samples utilisation, as its ring shows."""

    samples: int
    """Samples in the ring."""
    period_s: float | None
    """Median time between two; None: there are fewer than two."""
    span_s: float
    """From the oldest to the newest."""
    clock: str
    """On which its stamps lie: see `driver_clock`."""
    age_s: float
    """Of the newest."""


class Reader(Protocol):
    """Reads one GPU. It never raises: what the driver refuses is None, and `unavailable` says why."""

    uuid: str

    @property
    def lost_reason(self) -> str | None:
        """Why the GPU stopped answering altogether; None: it has not."""

    @property
    def unavailable(self) -> tuple[Unavailable, ...]:
        """One entry for each reading that is None from now on."""

    def drain_utilisation(self) -> list[tuple[float, float]]:
        """Return (time.monotonic() seconds, share 0..1) of each sample since the last call, oldest first."""

    def read_state(self) -> GpuReadings:
        """Return everything else as of now."""

    def read_sampling(self) -> DriverSampling | None:
        """Return how the driver samples utilisation; None where it keeps no samples."""

    def gpm_reason(self) -> str | None:
        """Return why there are no GPU performance metrics; None: there are."""

    def close(self) -> None:
        """Give back what the driver holds for it."""
