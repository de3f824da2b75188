"""What must a reader bear in mind about the numbers, whatever limits the training?

Rules like those of `rules`: a case in, a finding or None out.
"""

from loadtune.advice.case import Case
from loadtune.advice.thresholds import FOREIGN_RATIO, NOISY
from loadtune.records.report import Evidence, Finding

__all__ = ["FOREIGN_RATIO", "noisy", "other_streams", "page_cache"]

SEVERE_SPREAD_RATIO = 0.25
"""Spread from which it is a warning, by the source of `NOISY`."""
CACHE_WORDS = {
    "warm": ("Measured with the data in the page cache", "A first epoch, cold, is slower."),
    "partly warm": ("Measured with the first of the data in the page cache", "A first epoch, cold, is slower."),
    "streaming": ("Measured on fresh samples in every trial", "The data do not fit into memory, as in training."),
    "cold": ("Measured with the files dropped from the page cache", "Later epochs are faster where the data fit."),
}
"""What each state of the page cache means for the rate: title, and what to bear in mind."""


def page_cache(case: Case) -> Finding | None:
    """Where the bytes came from, since a first epoch and a later one differ in that."""
    trace = case.chosen.trace
    if trace is None or trace.miss_ratio is None:
        return None
    title, meaning = CACHE_WORDS[case.chosen.cache]
    return Finding(
        rule="page-cache",
        severity="info",
        title=title,
        detail=f"{trace.miss_ratio:.0%} of the bytes came from storage. {meaning}",
        evidence=(Evidence(name="miss_ratio", value=trace.miss_ratio),),
    )


def other_streams(case: Case) -> Finding | None:
    """Another number of workers draws other augmentations: each worker's generators are seeded with its own number."""
    if case.baseline is None or case.baseline.settings.num_workers == case.chosen.settings.num_workers:
        return None
    return Finding(
        rule="other-streams",
        severity="info",
        title="Another num_workers draws other augmentations for the same seed",
        detail="Each worker has generators of its own: no run is repeated bit for bit; the distribution is the same.",
    )


def noisy(case: Case) -> Finding | None:
    """The windows of a trial differ so much that its rate says little."""
    spreads = [trial.spread_ratio for trial in case.trials if trial.spread_ratio is not None]
    if not spreads or max(spreads) < NOISY.value:
        return None
    worst = max(spreads)
    return Finding(
        rule="noisy",
        severity="warning" if worst >= SEVERE_SPREAD_RATIO else "info",
        title=f"The rate varied by {worst:.0%} from window to window",
        detail="Rates of single trials are rough here; the comparison rests on the duel.",
        action="Give it a longer --budget, or a quieter machine." if worst >= SEVERE_SPREAD_RATIO else None,
        evidence=(NOISY.evidence(worst),),
    )
