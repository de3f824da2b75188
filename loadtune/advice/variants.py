"""Which settings beyond workers and batch may matter here, by the evidence of the chosen one?

Each is a candidate only: it is measured, and kept if it wins a duel against the choice without it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from loadtune.advice.rules import STALL_RATIO
from loadtune.records.measurement import TrialResult
from loadtune.records.settings import DEFAULT_PREFETCH_FACTOR, DeviceKind, Settings

TAIL_RATIO = 3.0
"""Longest batch of a worker by its usual one from which slow samples are worth passing by: those before it wait in
order, and an ordered loader waits for the slowest of num_workers."""
SPREAD_RATIO = 0.3
"""Spread of a worker's batches from which a deeper queue may carry the device over the slow ones."""
PREFETCH_STEPS = 2
"""Factor on prefetch_factor: twice the queue; its memory doubles too."""
COPY_RATIO = 0.03
"""Share of a step spent copying to a GPU from pageable memory from which pinning may pay: as the tie rule."""


class Variant(NamedTuple):
    """Another setting, and why it may be better."""

    settings: Settings
    why: str


def find_variants(chosen: TrialResult, device: DeviceKind, spread_ratio: float | None = None) -> tuple[Variant, ...]:
    """Return what is worth a try, the most promising first.

    Args:
        chosen: A complete trial of the chosen setting.
        device: What it trained on.
        spread_ratio: Spread of a worker's batch times, where the loader ran alone.
    """
    return tuple(_find(chosen, device, spread_ratio))


def _find(chosen: TrialResult, device: DeviceKind, spread_ratio: float | None) -> Iterator[Variant]:
    settings, measured = chosen.settings, chosen.measurement
    if measured is None or not chosen.rate_per_s:
        return
    stalls = (measured.stall_ratio or 0.0) > STALL_RATIO
    usual_s = settings.num_workers * settings.batch_size / chosen.rate_per_s
    longest_s = measured.longest_batch_s or 0.0
    if stalls and settings.num_workers > 1 and settings.in_order and longest_s > TAIL_RATIO * usual_s:
        yield Variant(
            msgspec.structs.replace(settings, in_order=False),
            f"a batch took {longest_s / usual_s:.1f} times the usual in a worker, and others waited for it in order",
        )
    if stalls and settings.num_workers and max(spread_ratio or 0.0, longest_s / usual_s - 1) > SPREAD_RATIO:
        deeper = PREFETCH_STEPS * (settings.prefetch_factor or DEFAULT_PREFETCH_FACTOR)
        yield Variant(
            msgspec.structs.replace(settings, prefetch_factor=deeper),
            "batches take unequal time, and a deeper queue may carry the device over the slow ones",
        )
    copies = measured.copy_s is not None and measured.step_s and measured.copy_s > COPY_RATIO * measured.step_s
    if device == "cuda" and copies and not settings.pin_memory:
        yield Variant(
            msgspec.structs.replace(settings, pin_memory=True),
            f"copying to the GPU takes {(measured.copy_s or 0.0) / (measured.step_s or 1.0):.0%} of a step",
        )
