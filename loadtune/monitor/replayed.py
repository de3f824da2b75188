"""What would NVML have sampled from a replayed device? Busy spans in, utilisation samples out: pure.

It stands where there is no GPU to ask; traces that hold its samples say so (gpu_is_replayed).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from loadtune.monitor.trace import GPU_SAMPLES_MAX, Interval, summarise_utilisation, thin
from loadtune.records.resources import GpuSample, ResourceTrace, Unavailable

SAMPLE_PERIOD_S = 1 / 6
"""NVML's usual sampling period. Jitter depends on it, so another value makes replay incomparable with real GPUs."""

GPU_READINGS = ("utilisation_mean_ratio", "jitter_ratio")


def replayed_gpu_samples(
    busy_spans: Sequence[Interval],
    started_monotonic_s: float,
    ended_monotonic_s: float,
    period_s: float = SAMPLE_PERIOD_S,
) -> tuple[GpuSample, ...]:
    """Return the utilisation that NVML would have sampled, at_s counted from the start.

    The period is stretched a little so that a whole number of them fills the time: no sample covers less than the
    others, and the plain mean is the busy share.

    Args:
        busy_spans: (start_s, end_s) of the device's work on time.monotonic(), in any order; overlaps count once.
        started_monotonic_s: Start of the first period.
        ended_monotonic_s: End of the last; no samples if it is not after the start.
        period_s: Length of a sample.
    """
    length_s = ended_monotonic_s - started_monotonic_s
    if not length_s > 0:
        return ()
    count = max(1, math.floor(length_s / period_s))
    edges_s = [length_s * place / count for place in range(count + 1)]
    busy_s = [0.0] * count
    for start_s, end_s in _merge(busy_spans):
        left_s, right_s = max(0.0, start_s - started_monotonic_s), min(length_s, end_s - started_monotonic_s)
        place = min(count - 1, int(left_s / length_s * count))
        while place < count and edges_s[place] < right_s:
            busy_s[place] += max(0.0, min(right_s, edges_s[place + 1]) - max(left_s, edges_s[place]))
            place += 1
    return tuple(
        GpuSample(at_s=right_s, utilisation_ratio=min(1.0, busy / (right_s - left_s)) if right_s > left_s else 0.0)
        for busy, (left_s, right_s) in zip(busy_s, pairwise(edges_s), strict=True)
    )


def with_replayed_gpu(
    trace: ResourceTrace, busy_spans: Sequence[Interval], measuring: Interval | None = None
) -> ResourceTrace:
    """Return the trace with the GPU that the busy spans describe, and its mean and jitter while measuring.

    Samples reach from the first span or the start of measuring to the end of the last: outside, nothing is known.

    Args:
        trace: What was watched.
        busy_spans: (start_s, end_s) of the device's work on time.monotonic().
        measuring: Start and end on time.monotonic(); from the first span to the last if not given.
    """
    spans = _merge(busy_spans)
    if not spans:
        reasons = tuple(Unavailable(reading=name, reason="the replayed device was never busy") for name in GPU_READINGS)
        return msgspec.structs.replace(trace, unavailable=(*_without_gpu(trace), *reasons))
    known = spans[0][0], spans[-1][1]
    measured = measuring or known
    # The mean is taken from periods that begin and end with the measuring interval, not from those that cross it.
    inside = replayed_gpu_samples(spans, *measured)
    mean, deviation = summarise_utilisation(inside, 0.0, math.inf)
    first_s, last_s = min(known[0], measured[0]), max(known[1], measured[1])
    samples = tuple(
        GpuSample(at_s=sample.at_s + first_s - trace.started_monotonic_s, utilisation_ratio=sample.utilisation_ratio)
        for sample in replayed_gpu_samples(spans, first_s, last_s)
    )
    return msgspec.structs.replace(
        trace,
        gpu=thin(samples, GPU_SAMPLES_MAX),
        gpu_is_replayed=True,
        utilisation_mean_ratio=mean,
        jitter_ratio=deviation,
        unavailable=(*_without_gpu(trace), *_reasons(mean, deviation)),
    )


def _reasons(mean: float | None, deviation: float | None) -> tuple[Unavailable, ...]:
    why = "the measuring interval is shorter than two sampling periods"
    figures = zip(GPU_READINGS, (mean, deviation), strict=True)
    return tuple(Unavailable(reading=name, reason=why) for name, figure in figures if figure is None)


def _without_gpu(trace: ResourceTrace) -> tuple[Unavailable, ...]:
    return tuple(item for item in trace.unavailable if item.reading not in GPU_READINGS)


def _merge(spans: Sequence[Interval]) -> list[Interval]:
    """Sort the spans and join those that overlap; empty ones go."""
    merged: list[Interval] = []
    for start_s, end_s in sorted(span for span in spans if span[1] > span[0]):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    return merged
