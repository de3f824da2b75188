"""What rate may a setting reach? An analytic model of workers, cores, main process, device and finite buffer.

It orders and prunes the space of a search, and is corrected by what was measured. It recommends nothing, and no number
of it is a result: such models are off by a few per cent where workers wait, by a quarter and more where cores run out
(Plumber, MLSys 2022: within a factor of 2; our own machines: -2 to +42 %). Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtune.records.settings import Settings

WORKERS_BUSY_MIN_S = 1e-6
"""Least time of a sample in a worker: no division by zero where a data set hands out what it has."""
BALANCE_ROUNDS = 24
"""Halvings in which the main process's share of the cores settles: to a part in ten million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLine:
    """Seconds of a step at batch size B: fixed_s + per_sample_s * B."""

    fixed_s: float
    per_sample_s: float

    def step_s(self, batch_size: int) -> float:
        """Return the time of a step."""
        return self.fixed_s + self.per_sample_s * batch_size

    def rate_per_s(self, batch_size: int) -> float:
        """Return the device's own rate; infinite where nothing limits."""
        step_s = self.step_s(batch_size)
        return batch_size / step_s if step_s > 0 else math.inf


def fit_device(step_s: Mapping[int, float]) -> DeviceLine:
    """Return the line through measured step times by batch size; through the origin where there is one only.

    Neither part is negative: a larger batch is never predicted to take less time, nor an empty one to give some back.

    Raises:
        ValueError: Nothing was measured.
    """
    if not step_s:
        raise ValueError("a line takes at least one measured batch size")
    sizes = sorted(step_s)
    if len(sizes) == 1:
        return DeviceLine(fixed_s=0.0, per_sample_s=step_s[sizes[0]] / sizes[0])
    mean_size, mean_s = sum(sizes) / len(sizes), sum(step_s.values()) / len(sizes)
    square = sum((size - mean_size) ** 2 for size in sizes)
    slope = sum((size - mean_size) * (step_s[size] - mean_s) for size in sizes) / square
    slope = min(max(slope, 0.0), mean_s / mean_size)
    return DeviceLine(fixed_s=mean_s - slope * mean_size, per_sample_s=slope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A loader and the device that it feeds."""

    cores: float
    """Usable cores."""
    worker_wall_s: float
    """Seconds that a sample takes in one worker that nothing holds up: waiting for storage, and computing."""
    worker_cpu_s: float
    """CPU seconds of these."""
    main_cpu_s: float = 0.0
    """CPU seconds of the main process a sample: taking batches, pinning, launching steps."""
    taking_cpu_s: float = 0.0
    """Those of them that taking a batch from a worker costs: without workers nothing is handed over."""
    variation: float = 0.0
    """Standard deviation of a batch's time by its mean; with 0 the finite buffer never runs dry by chance."""
    device: DeviceLine | None = None
    """None: nothing is known of the device, which then limits nothing."""
    corrections: Mapping[int, float] = field(default_factory=dict)
    """Measured by predicted rate of the loader at some worker counts; between them it is interpolated."""

    def predict(self, settings: Settings) -> float:
        """Return samples a second of a setting.

        Without workers loading and the host's part of a step take turns, while the device works on. With them the
        device waits where the loader is slower (deterministic limit), and also where a buffer of
        prefetch_factor * num_workers batches runs empty by chance: tf.data's formula for a finite queue
        (`Node::ComputeWaitTime`), which assumes exponential times and is therefore weighted by the squared variation.
        """
        size = settings.batch_size
        step_s = 0.0 if self.device is None else self.device.step_s(size)
        batch_s = size / self.loader_rate_per_s(settings.num_workers)
        slower_s = max(batch_s, step_s)
        if not settings.num_workers or slower_s <= 0:
            return size / max(slower_s, WORKERS_BUSY_MIN_S)
        by_chance_s = step_s + _p_empty(batch_s, step_s, settings.batches_in_flight) * batch_s - slower_s
        return size / (slower_s + min(1.0, self.variation**2) * max(0.0, by_chance_s))

    def loader_rate_per_s(self, num_workers: int) -> float:
        """Return what the loader delivers where nothing holds it up, corrected by what was measured."""
        return self._uncorrected(num_workers) * interpolate(self.corrections, num_workers)

    def _uncorrected(self, num_workers: int) -> float:
        wall_s = max(self.worker_wall_s, WORKERS_BUSY_MIN_S)
        if not num_workers:
            return 1.0 / (wall_s + max(0.0, self.main_cpu_s - self.taking_cpu_s))
        cpu_s = min(self.worker_cpu_s, wall_s)
        if self.main_cpu_s <= 0:
            return machine_repair_rate_per_s(num_workers, wall_s - cpu_s, cpu_s, self.cores)
        # The main process takes its share of the cores first, in step with the rate: the balance lies where both agree.
        low, high = 0.0, min(num_workers / wall_s, 1.0 / self.main_cpu_s)
        for _ in range(BALANCE_ROUNDS):
            middle = (low + high) / 2
            left = self.cores - middle * self.main_cpu_s
            able = machine_repair_rate_per_s(num_workers, wall_s - cpu_s, cpu_s, max(left, 0.01 * self.cores))
            low, high = (middle, high) if able > middle else (low, middle)
        return max(low, 1e-9)

    def corrected(self, measured: Mapping[int, float]) -> "Pipeline":
        """Return this model made to agree with measured loader rates, num_workers to samples a second."""
        known = {workers: rate / self._uncorrected(workers) for workers, rate in measured.items() if rate > 0}
        return Pipeline(
            cores=self.cores,
            worker_wall_s=self.worker_wall_s,
            worker_cpu_s=self.worker_cpu_s,
            main_cpu_s=self.main_cpu_s,
            taking_cpu_s=self.taking_cpu_s,
            variation=self.variation,
            device=self.device,
            corrections=known,
        )


def machine_repair_rate_per_s(num_workers: int, io_s: float, cpu_s: float, cores: float) -> float:
    """Return the samples a second of workers that wait io_s and then compute cpu_s on shared cores.

    The finite-source queue (machine-repair model, M/M/c//N): with n workers computing or wanting to, the chance is
    p_n ~ prod_{j=1..n} (N - j + 1) / io_s / (min(j, cores) / cpu_s), and the rate sum (N - n) p_n / io_s.

    Args:
        num_workers: N, at least 1.
        io_s: Waiting of a sample; 0: the workers only compute.
        cpu_s: Computing of a sample; 0: they only wait.
        cores: For all workers together, not necessarily whole.
    """
    if io_s <= 0 or cpu_s <= 0:
        return num_workers / io_s if io_s > 0 else min(num_workers, cores) / max(cpu_s, WORKERS_BUSY_MIN_S)
    weights = [1.0]
    for n in range(1, num_workers + 1):
        weights.append(weights[-1] * (num_workers - n + 1) / io_s * cpu_s / min(n, cores))
        if weights[-1] > 1e200:  # only their ratios count
            weights = [weight / 1e200 for weight in weights]
    return sum((num_workers - n) * weight for n, weight in enumerate(weights)) / io_s / sum(weights)


def interpolate(points: Mapping[int, float], num_workers: int) -> float:
    """Return a correction at a worker count: linear in log2(1 + num_workers) between points, the nearest beyond them.

    0 workers load in the main process, another mechanism: what was measured there says nothing about workers, nor they
    about it.
    """
    if num_workers == 0:
        return points.get(0, 1.0)
    known = sorted((math.log2(1 + workers), value) for workers, value in points.items() if workers)
    if not known:
        return 1.0
    at = math.log2(1 + num_workers)
    below = [point for point in known if point[0] <= at]
    above = [point for point in known if point[0] >= at]
    if not below or not above:
        return (below[-1] if below else above[0])[1]
    (x0, y0), (x1, y1) = below[-1], above[0]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (at - x0) / (x1 - x0)


def _p_empty(batch_s: float, step_s: float, buffer: int) -> float:
    """Return the chance that a consumer finds a buffer of so many batches empty (M/M/1/n)."""
    if batch_s <= 0:
        return 0.0
    if step_s <= 0:
        return 1.0
    ratio = step_s / batch_s  # the buffer's load: below 1 it tends to be empty
    if abs(ratio - 1.0) < 1e-9:
        return 1.0 / (buffer + 1)
    if ratio > 1.0:
        log_power = (buffer + 1) * math.log(ratio)
        return 0.0 if log_power > 700 else (ratio - 1.0) / (math.exp(log_power) - 1.0)
    return (1.0 - ratio) / (1.0 - ratio ** (buffer + 1))
