"""What are the trainings whose ill is known, on a real card? Kernels of chosen length, fed by a loader that sleeps.

A kernel is `torch.cuda._sleep`, which spins for a number of clock cycles on one multiprocessor: a kernel runs, which is
all that NVML's utilisation counts. The cycles of a second are measured before the first step. A world is named by its
pattern and its step in microseconds: the module's attributes `data_<pattern>_<us>` and `step_<pattern>_<us>`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.jitter_worlds import BATCH, LEAVE, WORKERS

BATCH_SIZE = 16
KERNEL_S = 0.0002
"""A kernel's length where the host does not pace them. CUDA queues about a thousand launches: with kernels as long as
steps the host would run a thousand steps ahead, and no trial would end."""
LENGTH = 1 << 20
"""Samples: no world comes to the end of its epoch."""
CALIBRATION_CYCLES = 50_000_000
"""About 30 ms at 1.7 GHz: long enough to wake an idle card's clock, and short enough to repeat."""
CALIBRATIONS = 6
"""The last of them counts: the clock has settled."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One ill, or none."""

    remedy: str
    workers: int = 0
    busy_share: float = 1.0
    """Share of the time that kernels take."""
    kernel_period_s: float | None = None
    """From one kernel's launch to the next, by the host's clock; None: as soon as the host can."""


PATTERNS = {
    "stalled": Pattern(WORKERS, 0, 0.5),
    "burst4": Pattern(WORKERS, 4, 0.5),
    "burst8": Pattern(WORKERS, 8, 0.5),
    "launch": Pattern(BATCH, 0, 0.5, 0.006),
    "finelaunch": Pattern(BATCH, 0, 0.5, 0.0002),
    "healthy": Pattern(LEAVE),
}
"""burst4, burst8: so many workers, in step with each other; launch, finelaunch: periods of 6 and 0.2 ms, half busy."""


class Sleeping(Dataset[tuple[torch.Tensor, int]]):
    """Samples that take their time and no CPU.

    Args:
        sample_s: Seconds of one sample.
    """

    def __init__(self, sample_s: float) -> None:
        self._sample_s = sample_s

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self._sample_s:
            time.sleep(self._sample_s)
        return torch.zeros(1), index


def sample_s(pattern: Pattern, step_s: float) -> float:
    """Return the seconds of one sample with which the device is busy for the pattern's share.

    The loader works while the device does, so a batch takes step_s / busy_share, and each of several workers has as
    many times longer for it.
    """
    if pattern.remedy != WORKERS:
        return 0.0
    return max(1, pattern.workers) * step_s / pattern.busy_share / BATCH_SIZE


def make_step(pattern: Pattern, step_s: float) -> Callable[[Any], None]:
    """Return a step on the current CUDA device; the length of its kernels is found at its first call."""
    period_s = pattern.kernel_period_s
    count = max(1, round(step_s / (period_s or KERNEL_S)))
    kernel_s = KERNEL_S if period_s is None else pattern.busy_share * period_s
    cycles: list[int] = []

    def step(batch: Any) -> None:
        del batch
        if not cycles:
            cycles.append(round(kernel_s * measure_cycles_per_s()))
        for _ in range(count):
            began_s = time.perf_counter()
            torch.cuda._sleep(cycles[0])
            while period_s is not None and time.perf_counter() - began_s < period_s:
                pass

    return step


def measure_cycles_per_s() -> float:
    """Return how many cycles the current CUDA device spins a second."""
    rate = 0.0
    for _ in range(CALIBRATIONS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.cuda._sleep(CALIBRATION_CYCLES)
        end.record()
        end.synchronize()
        rate = CALIBRATION_CYCLES / (begin.elapsed_time(end) / 1000.0)
    return rate


def __getattr__(name: str) -> Any:
    """Return `data_<pattern>_<us>`, a data set, or `step_<pattern>_<us>`, a training step.

    Raises:
        AttributeError: There is no such world.
    """
    kind, _, rest = name.partition("_")
    pattern, _, micro = rest.partition("_")
    if kind not in {"data", "step"} or pattern not in PATTERNS or not micro.isdigit():
        raise AttributeError(f"no world is called {name!r}")
    step_s = int(micro) / 1e6
    return Sleeping(sample_s(PATTERNS[pattern], step_s)) if kind == "data" else make_step(PATTERNS[pattern], step_s)
