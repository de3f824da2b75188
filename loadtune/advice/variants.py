"""Which settings beyond workers and batch may matter here, by the evidence of the chosen one?

Each is a candidate only: it is measured, and kept if it wins a duel against the choice without it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from loadtune.advice.case import Case, delayed_ratio, stall_ratio, taken_cores, used_cores
from loadtune.advice.epochs import boundary_share, shorten
from loadtune.advice.rules import STALL_RATIO
from loadtune.advice.thresholds import DELAYED, SATURATED
from loadtune.records.measurement import TrialResult
from loadtune.records.settings import DEFAULT_PREFETCH_FACTOR, Settings
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

LEAST_RATIO = 0.05
"""Of its time that a main process counts as training at least: below, a few milliseconds would be divided by none, and
noise would look like busy threads."""

EPOCH_BATCHES_MIN = 2
"""Batches of an epoch at least for its end to be told from its steady state."""


class Variant(NamedTuple):
    """Another setting, and why it may be better."""

    settings: Settings
    why: str
    epoch_batches: int | None = None
    """Batches of the short epochs whose ends show what it wins; None: the steady rate does."""


def find_variants(case: Case, spread_ratio: float | None = None) -> tuple[Variant, ...]:
    """Return what is worth a try, the most promising first.

    Args:
        case: A complete trial of the chosen setting, what it trained on, and the machine's limits. Its sample count is
            that of a real epoch; None where it is not known, or the data set ends the epoch by itself.
        spread_ratio: Spread of a worker's batch times, where the loader ran alone.
    """
    return tuple(_find(case, spread_ratio))


def _find(case: Case, spread_ratio: float | None) -> Iterator[Variant]:
    """Yield each. What was seen to cost comes before what is guessed.

    Threads come first: where they hold workers up, batches that take unequal time may be no more than the trace of it.
    A deeper queue comes last: it may carry the device over slow batches, or not.
    """
    chosen, device = case.chosen, case.device
    yield from filter(None, (_with_fewer_threads(case), _with_more_threads(case)))
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
    kept = _with_kept_workers(chosen, case.sample_count)
    if kept is not None:
        yield kept
    copies = measured.copy_s is not None and measured.step_s and measured.copy_s > COPY_RATIO * measured.step_s
    if device == "cuda" and copies and not settings.pin_memory:
        yield Variant(
            msgspec.structs.replace(settings, pin_memory=True),
            f"copying to the GPU takes {(measured.copy_s or 0.0) / (measured.step_s or 1.0):.0%} of a step",
        )
    if stalls and settings.num_workers and max(spread_ratio or 0.0, longest_s / usual_s - 1) > SPREAD_RATIO:
        deeper = PREFETCH_STEPS * (settings.prefetch_factor or DEFAULT_PREFETCH_FACTOR)
        yield Variant(
            msgspec.structs.replace(settings, prefetch_factor=deeper),
            "batches take unequal time, and a deeper queue may carry the device over the slow ones",
        )


def _with_fewer_threads(case: Case) -> Variant | None:
    """One thread for the main process, where its threads take cores that workers wait for, and the device for them."""
    chosen = case.chosen
    settings, threads, stall = chosen.settings, _main_threads(chosen) or 1, stall_ratio(chosen) or 0.0
    delayed, busy = delayed_ratio(chosen) or 0.0, _busy_cores(case)
    if not settings.num_workers or threads < 2 or stall <= STALL_RATIO or delayed < DELAYED.value or busy <= 1.0:
        return None
    return Variant(
        msgspec.structs.replace(settings, main_threads=1),
        f"workers waited for a core {delayed:.0%} of their time, while {threads} threads of the main process kept "
        f"{busy:.1f} cores busy",
    )


def _with_more_threads(case: Case) -> Variant | None:
    """The idle cores for the main process, where it trains on a CPU, uses the threads it has, and waits for no data."""
    chosen = case.chosen
    threads, stall, used = _main_threads(chosen), stall_ratio(chosen), used_cores(chosen)
    if case.device != "cpu" or threads is None or used is None or stall is None or stall > STALL_RATIO:
        return None
    usable_cores = case.limits.usable_cores
    idle = usable_cores - used - taken_cores(case, chosen)
    more = min(threads + int(idle), int(usable_cores))
    # Threads that find no work now would find none with others beside them.
    if more <= threads or _busy_cores(case) < SATURATED.value * threads:
        return None
    return Variant(
        msgspec.structs.replace(chosen.settings, main_threads=more),
        f"the device did not wait for data, and {idle:.1f} of {usable_cores:g} cores lay idle beside {threads} "
        f"thread{'' if threads == 1 else 's'} of the main process",
    )


def _main_threads(chosen: TrialResult) -> int | None:
    """Return the torch intra-op threads of a trial's main process; None where they were not read."""
    return None if chosen.measurement is None else chosen.measurement.main_threads


def _busy_cores(case: Case) -> float:
    """Return the cores that the main process kept busy, on a CPU while it did not wait for data; 0: not read.

    Beside a GPU it takes batches and pins them while the device waits: what it used is of the whole time.
    """
    chosen = case.chosen
    busy = 0.0 if chosen.trace is None else chosen.trace.mean_main_cores or 0.0
    return busy / max(LEAST_RATIO, 1.0 - (stall_ratio(chosen) or 0.0)) if case.device == "cpu" else busy


def _with_kept_workers(chosen: TrialResult, sample_count: int | None) -> Variant | None:
    """Its workers kept, where starting them anew takes more of a real epoch than a tie."""
    settings, rate, measured = chosen.settings, chosen.rate_per_s, chosen.measurement
    boundary_s = None if measured is None else measured.epoch_boundary_s
    if measured is None or settings.persistent_workers or not (settings.num_workers and boundary_s and rate):
        return None
    kept = msgspec.structs.replace(settings, persistent_workers=True)
    if measured.epoch_samples:  # the data set ends its epochs in a duel as well: the rate holds what it wins
        share = boundary_s * rate / measured.epoch_samples
        why = f"the device waits {share:.0%} of an epoch of {measured.epoch_samples} samples after its end"
        return Variant(kept, why) if share >= 1.0 - TIE_RATIO else None
    if not sample_count:
        return None
    share = boundary_share(sample_count, rate, boundary_s)
    batches = shorten(sample_count, rate, settings.num_workers, settings.batch_size)
    if share < 1.0 - TIE_RATIO or batches < EPOCH_BATCHES_MIN:
        return None
    return Variant(
        kept,
        f"starting the workers anew takes {share:.0%} of an epoch of {sample_count} samples",
        batches,
    )
