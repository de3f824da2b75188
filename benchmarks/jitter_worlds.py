"""How does a device's work look over time, and what does NVML make of it? Trainings whose cause is known, simulated.

Each world is a training with one known ill, or none: when its steps and kernels ran, and which remedy would help. The
cause is what a world was made from, not what any rule says of it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

WORKERS, BATCH, LEAVE = "more workers", "larger batch", "leave it"
"""What would help: a loader that keeps up, more work a launch, or neither."""

PATTERNS = {
    "stalled every step": WORKERS,
    "in bursts of 4": WORKERS,
    "in bursts of 16": WORKERS,
    "at random": WORKERS,
    "launch-bound": BATCH,
    "healthy": LEAVE,
}
"""Each pattern and its remedy."""

STEPS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Seconds of a step without waiting."""

STALL_SHARES = (0.08, 0.6)
"""Least and largest share of the time that a loader-bound world waits. Below, a faster loader wins under a tenth."""

BUSY_SHARES = (0.3, 0.9)
"""The same for the share that kernels take of a launch-bound step. Above, a larger batch wins under a tenth."""

HEALTHY_GAP_SHARE = 0.02
"""Largest share of the time that a healthy world idles between steps, as logging or a slow optimizer makes it."""

LAUNCH_GAP_S = 0.0002
"""Idle between two steps in any eager training, with a resident batch too: one launch is late."""

KERNEL_PERIOD_S = 0.006
"""From one kernel of a launch-bound step to the next: 3 ms and 3 ms are half busy."""

PHASES = (0.3, 0.55, 0.15)
"""Shares of a step that forward, backward and optimizer take. Each has kernels of its own length, so that no step is
even: NVML sees the phases of long steps."""

PHASE_SPREAD = 0.3
"""By how much a phase of a launch-bound step may be busier or idler than the whole, by the whole."""

FULL_SHARES = (0.95, 1.0)
"""Share that kernels take of each phase of any other step."""

STEP_SPREAD = 0.03
"""Standard deviation of a step's length, by its length."""

REFERENCE_STEPS = 30
"""Steps on a resident batch from whose idle times the reference is taken, as loadtune's warm-up does."""

WATCH_S = 60.0
"""For how long each world is watched. nvidia-smi is seldom watched longer, and a trial of loadtune's is shorter."""


@dataclass(frozen=True, slots=True)
class World:
    """A training and its remedy. Times are seconds from when the watching began; what is before or after is cut."""

    pattern: str
    remedy: str
    gain_ratio: float
    """How many times faster the remedy makes it, without any waiting or any launch gap; 1: there is none."""
    step_starts: Times
    step_ends: Times
    kernel_starts: Times
    kernel_ends: Times
    idle_reference_s: float
    """Median idle between steps of the same training on a resident batch."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A kind of NVML: how long its window is, and how it is read."""

    name: str
    window_s: float
    poll_s: float | None
    """Seconds between two readings of the last full window; None: every window is read from the driver's buffer."""


POLL_S = 0.5
"""SageMaker Debugger's interval, and about that of somebody who runs `watch nvidia-smi`."""

SIGHTS = (
    Sight("1/6 s, buffered", 1 / 6, None),
    Sight("1 s, buffered", 1.0, None),
    Sight("1/6 s, polled", 1 / 6, POLL_S),
    Sight("1 s, polled", 1.0, POLL_S),
)
"""The two ends of what nvml.h says of the window, "between 1 second and 1/6 second, depending on the product"."""


def make_world(pattern: str, step_s: float, rng: np.random.Generator, share: float | None = None) -> World:
    """Return a world.

    Args:
        pattern: One of PATTERNS.
        step_s: Length of its steps without waiting.
        rng: Draws how ill it is, and each step.
        share: How ill it is: the share of the time that it waits, or that kernels take; None: drawn.
    """
    count = int(WATCH_S / step_s) + 40
    steps_s = step_s * np.clip(1 + STEP_SPREAD * rng.standard_normal(count), 0.5, 1.5)
    gaps_s = LAUNCH_GAP_S * rng.uniform(0.5, 1.5, count)
    reference_s = float(np.median(LAUNCH_GAP_S * rng.uniform(0.5, 1.5, REFERENCE_STEPS)))
    busy_shares, gain_ratio = rng.uniform(*FULL_SHARES, len(PHASES)), 1.0
    if pattern == "launch-bound":
        busy_share = rng.uniform(*BUSY_SHARES) if share is None else share
        busy_shares, gain_ratio = _uneven(busy_share, rng), 1 / busy_share
    elif pattern == "healthy":
        gap_share = rng.uniform(0.0, HEALTHY_GAP_SHARE) if share is None else share
        gaps_s = gaps_s + gap_share * step_s
    else:
        stall_share = rng.uniform(*STALL_SHARES) if share is None else share
        gain_ratio = 1 / (1 - stall_share)
        gaps_s = gaps_s + _waits(pattern, step_s * stall_share / (1 - stall_share), count, rng)
    ends = np.cumsum(gaps_s + steps_s)
    starts = ends - steps_s
    # It has run for a while when the watching begins, so that no window begins with a step.
    begin_s = rng.uniform(0.0, 20 * float(np.mean(gaps_s + steps_s)))
    starts, ends = starts - begin_s, ends - begin_s
    is_seen = (ends > 0.0) & (starts < WATCH_S)
    starts, ends = starts[is_seen], ends[is_seen]
    kernels = _kernels(starts, ends, busy_shares)
    return World(pattern, PATTERNS[pattern], gain_ratio, starts, ends, *kernels, idle_reference_s=reference_s)


def _waits(pattern: str, mean_s: float, count: int, rng: np.random.Generator) -> Times:
    """Return the wait before each step, of the same mean whatever the pattern."""
    if pattern == "at random":
        return rng.exponential(mean_s, count)
    burst = {"stalled every step": 1, "in bursts of 4": 4, "in bursts of 16": 16}[pattern]
    waits_s = np.zeros(count)
    waits_s[::burst] = burst * mean_s * np.clip(1 + 0.1 * rng.standard_normal(len(waits_s[::burst])), 0.1, 2.0)
    return waits_s


def _uneven(share: float, rng: np.random.Generator) -> Times:
    """Return the busy share of each phase, so that the whole step has this one."""
    shares = share * rng.uniform(1 - PHASE_SPREAD, 1 + PHASE_SPREAD, len(PHASES))
    return np.minimum(0.99, shares * share / float(np.dot(shares, PHASES)))


def _kernels(starts: Times, ends: Times, busy_shares: Times) -> tuple[Times, Times]:
    """Return the kernels of all steps, phase after phase: each begins a period, and idles after it."""
    phase_s = np.outer(ends - starts, PHASES)
    phase_starts = (starts[:, None] + np.cumsum(phase_s, axis=1) - phase_s).ravel()
    counts = np.maximum(1, np.round(phase_s.ravel() / KERNEL_PERIOD_S)).astype(int)
    periods_s = np.repeat(phase_s.ravel() / counts, counts)
    shares = np.repeat(np.tile(busy_shares, len(starts)), counts)
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    kernel_starts = np.repeat(phase_starts, counts) + places * periods_s
    return kernel_starts, kernel_starts + shares * periods_s


def look(world: World, sight: Sight, rng: np.random.Generator) -> Times:
    """Return the utilisation that NVML gives of a world, shares in whole per cent, oldest first."""
    count = int(WATCH_S / sight.window_s)
    first_s = rng.uniform(0.0, WATCH_S - count * sight.window_s) if count * sight.window_s < WATCH_S else 0.0
    edges = first_s + sight.window_s * np.arange(count + 1)
    busy_s = np.diff(_busy_before(world, edges))
    windows = np.round(100 * busy_s / sight.window_s) / 100
    if sight.poll_s is None:
        return windows
    at_s = np.arange(first_s + sight.window_s + rng.uniform(0.0, sight.poll_s), edges[-1], sight.poll_s)
    return windows[np.searchsorted(edges, at_s, side="right") - 2]


def _busy_before(world: World, at_s: Times) -> Times:
    """Return for how long kernels ran before each moment."""
    if not len(world.kernel_starts):  # one wait of a long burst took all of the time
        return np.zeros_like(at_s)
    lengths_s = world.kernel_ends - world.kernel_starts
    before_s = np.concatenate([[0.0], np.cumsum(lengths_s)])
    place = np.searchsorted(world.kernel_starts, at_s, side="right") - 1
    inside_s = np.minimum(at_s - world.kernel_starts[place], lengths_s[place])
    return np.where(place < 0, 0.0, before_s[place] + inside_s)
