"""What are kept workers worth over a real epoch? From a duel over short epochs, whose ends are seen often.

Pure. Let a real epoch take T seconds and a short one T', each of them steady work and one boundary: T = N / X + c0 and
T' = E' / X + c0, for N and E' samples at a steady rate X. A contender with the same steady rate whose boundary is
shorter by d seconds takes T' - d for the short epoch, so the duel's ratio of rates is r = T' / (T' - d), and
d = T' (1 - 1 / r). Over the real epoch it is T / (T - d) times as fast. That is 1 where r is 1, grows with r, lies
between 1 and r as long as T >= T', and tends to 1 as N grows.
"""

from dataclasses import dataclass

from loadtune.stats import RatioInterval

SHORT_STEADY_S = 0.25
"""Seconds of steady work in a short epoch. More makes slices of three epochs longer than the seconds of a duel; much
less is over before each worker has delivered."""


@dataclass(frozen=True, slots=True)
class Gain:
    """How many times as fast a real epoch becomes, with the ends of its 95 % interval."""

    estimate: float
    low: float
    high: float
    pairs: int
    """Of slices, that it rests on."""


def boundary_share(sample_count: int, rate_per_s: float, boundary_s: float) -> float:
    """Return the share of an epoch that its boundary takes: c0 / (N / X + c0)."""
    return boundary_s / (sample_count / rate_per_s + boundary_s)


def shorten(sample_count: int, rate_per_s: float, num_workers: int, batch_size: int) -> int:
    """Return the batches of a short epoch: as many for each worker, and no more than a real epoch has.

    Args:
        sample_count: Samples of a real epoch; 0 batches where they fill none.
        rate_per_s: Samples a second of the steady state.
        num_workers: That share the batches, at least 1.
        batch_size: Samples in a batch.
    """
    rounds = -(-SHORT_STEADY_S * rate_per_s // (num_workers * batch_size))
    return min(sample_count // batch_size, max(1, int(rounds)) * num_workers)


def gain_ratio(ratio: float, short_s: float, epoch_s: float) -> float:
    """Return T / (T - d) with d = T' (1 - 1 / r).

    Args:
        ratio: r, contender over baseline, of a duel over short epochs.
        short_s: T', seconds of the baseline's short epoch.
        epoch_s: T, seconds of its real epoch, at least T'.
    """
    return epoch_s / (epoch_s - short_s * (1.0 - 1.0 / ratio))


def gain_over_epoch(interval: RatioInterval, short_s: float, epoch_s: float) -> Gain | None:
    """Return the gain over a real epoch, each end of the interval carried over; None without an interval."""
    if interval.estimate is None or interval.low is None or interval.high is None:
        return None
    estimate, low, high = (
        gain_ratio(each, short_s, epoch_s) for each in (interval.estimate, interval.low, interval.high)
    )
    return Gain(estimate=estimate, low=low, high=high, pairs=interval.pairs)
