"""Which settings beyond workers and batch may matter here, by the evidence of the chosen one?

Each is a candidate only: it is measured, and kept if it wins a duel against the choice without it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from loadtune.advice.epochs import boundary_share, shorten
from loadtune.advice.rules import STALL_RATIO
from loadtune.records.measurement import TrialResult
from loadtune.records.settings import DEFAULT_PREFETCH_FACTOR, DeviceKind, Settings
from loadtune.stats import TIE_RATIO

TAIL_RATIO = 3.0
"""Longest batch of a worker by its usual one from which slow samples are worth passing by: those before it wait in
order, and an ordered loader waits for the slowest of num_workers."""
SPREAD_RATIO = 0.3
"""Spread of a worker's batches from which a deeper queue may carry the device over the slow ones."""
PREFETCH_STEPS = 2
"""Factor on prefetch_factor: twice the queue; its memory doubles too."""
COPY_RATIO = 0.03
"""Share of a step spent copying to a GPU from pageable memory from which pinning may pay: as the tie rule."""

EPOCH_BATCHES_MIN = 2
"""Batches of an epoch at least for its end to be told from its steady state."""


class Variant(NamedTuple):
    """Another setting, and why it may be better."""

    settings: Settings
    why: str
    epoch_batches: int | None = None
    """Batches of the short epochs whose ends show what it wins; None: the steady rate does."""


def find_variants(
    chosen: TrialResult, device: DeviceKind, spread_ratio: float | None = None, sample_count: int | None = None
) -> tuple[Variant, ...]:
    """Return what is worth a try, the most promising first.

    Args:
        chosen: A complete trial of the chosen setting.
        device: What it trained on.
        spread_ratio: Spread of a worker's batch times, where the loader ran alone.
        sample_count: Samples of a real epoch; None where they are not known, or the data set ends it by itself.
    """
    return tuple(_find(chosen, device, spread_ratio, sample_count))


def _find(
    chosen: TrialResult, device: DeviceKind, spread_ratio: float | None, sample_count: int | None
) -> Iterator[Variant]:
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
    yield from _keep_workers(chosen, sample_count)
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


def _keep_workers(chosen: TrialResult, sample_count: int | None) -> Iterator[Variant]:
    """Yield the setting with its workers kept, where starting them anew takes more of a real epoch than a tie."""
    settings, rate, measured = chosen.settings, chosen.rate_per_s, chosen.measurement
    boundary_s = None if measured is None else measured.epoch_boundary_s
    if not (settings.num_workers and boundary_s and sample_count and rate) or settings.persistent_workers:
        return
    share = boundary_share(sample_count, rate, boundary_s)
    batches = shorten(sample_count, rate, settings.num_workers, settings.batch_size)
    if share >= 1.0 - TIE_RATIO and batches >= EPOCH_BATCHES_MIN:
        yield Variant(
            msgspec.structs.replace(settings, persistent_workers=True),
            f"starting the workers anew takes {share:.0%} of an epoch of {sample_count} samples",
            batches,
        )
