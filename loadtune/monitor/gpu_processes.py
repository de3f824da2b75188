"""Who else computes on the GPU? The driver's processes, and what can be said of them from within a container.

The driver numbers processes as the host does, so that within a PID namespace of its own a number means nothing: there
only their count is used.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from loadtune.monitor.gpu import PROCESS_UTILISATION, PROCESSES, GpuReadings
from loadtune.monitor.nvml_answer import Code, Device, ask

INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""Target of /proc/self/ns/pid outside of every container: PROC_PID_INIT_INO of the kernel's proc_ns.h, 0xEFFFFFFC."""

OTHER_NUMBERS = "the driver numbers processes as the host does, and this container does not: ours cannot be told apart"
HIDDEN = "the driver lists fewer processes than the trial has: it hides some here"


@dataclass(frozen=True, slots=True)
class Others:
    """What others do on the GPU at one moment; None where it cannot be told, with the reason."""

    processes: int | None = None
    sm_ratio: float | None = None
    reasons: tuple[tuple[str, str], ...] = ()
    """(reading, why) for each None that the driver did not refuse."""


class Processes:
    """Reads the processes of one device and what each has used."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._last_seen_us = 0
        # By its version: under its plain name pynvml raises something else than NVMLError where the driver lacks it.
        self._list_call = "nvmlDeviceGetComputeRunningProcesses_v3"
        if ask(device.api, self._list_call, device.handle).code == Code.FUNCTION_NOT_FOUND:
            self._list_call = "nvmlDeviceGetComputeRunningProcesses_v2"  # its name in older drivers
        self.read_use()  # what the driver's buffer holds of before does not count

    def read_pids(self) -> frozenset[int] | None:
        """Return the processes with a compute context; None where not available."""
        rows = self._device.read(PROCESSES, self._list_call)
        return None if rows is None else frozenset(int(row.pid) for row in rows)

    def read_use(self) -> dict[int, float] | None:
        """Return process to its share of time with a kernel running, since the last call; None where not available.

        A process that used nothing is not in it.
        """
        if self._device.is_dropped(PROCESS_UTILISATION):
            return None
        answer = self._device.ask(PROCESS_UTILISATION, "nvmlDeviceGetProcessUtilization", self._last_seen_us)
        if answer.code == Code.NOT_FOUND:  # nobody used anything since
            return {}
        if answer.is_refused:
            return None
        shares: dict[int, list[float]] = {}
        for row in answer.value:
            if row.timeStamp > self._last_seen_us:
                shares.setdefault(int(row.pid), []).append(row.smUtil / 100)
        self._last_seen_us = max((int(row.timeStamp) for row in answer.value), default=self._last_seen_us)
        if any(share > 1 for each in shares.values() for share in each):
            return None  # some drivers fill the rows with garbage
        return {pid: sum(each) / len(each) for pid, each in shares.items()}


def shares_driver_pids(root: Path = Path("/")) -> bool:
    """Say whether this process sees the numbers that the driver uses: it is in no PID namespace of its own."""
    try:
        return os.readlink(root / "proc/self/ns/pid") == INITIAL_PID_NAMESPACE  # noqa: PTH115 - the target is no path
    except OSError:
        return False


def find_others(readings: GpuReadings, own_pids: Collection[int], trials: int, *, shares_pids: bool) -> Others:
    """Return what others do on the GPU.

    Args:
        readings: Of the GPU.
        own_pids: Of the watched trials, their workers included.
        trials: How many are watched; each has one process on the GPU.
        shares_pids: Whether the driver's numbers are ours.
    """
    reasons: dict[str, str] = {}
    processes = ratio = None
    if readings.pids is not None:
        if len(readings.pids) < trials:
            reasons[PROCESSES] = HIDDEN
        else:
            processes = len(readings.pids - set(own_pids)) if shares_pids else len(readings.pids) - trials
    if readings.sm_ratio_by_pid is not None:
        if shares_pids:
            shares = readings.sm_ratio_by_pid.items()
            ratio = min(1.0, sum(share for pid, share in shares if pid not in own_pids))
        else:
            reasons[PROCESS_UTILISATION] = OTHER_NUMBERS
    return Others(processes, ratio, tuple(reasons.items()))
