"""Until when may a duel run? To its deadline, and a little longer where only that gives it a verdict."""

import pytest

from loadtune.engine import duel
from loadtune.engine.duel import _TimeLeft
from loadtune.stats import DUEL_PAIRS_MIN


@pytest.fixture(autouse=True)
def _at_zero(monkeypatch):
    monkeypatch.setattr(duel.time, "monotonic", lambda: 0.0)


@pytest.mark.parametrize(
    ("done", "deadline_s", "holds"),
    [
        (20, 4.0, True),
        (20, 3.9, False),  # enough pairs: no reason to be late
        (DUEL_PAIRS_MIN - 1, 3.0, True),
        (DUEL_PAIRS_MIN - 1, 1.9, False),  # later than the promise allows
        (DUEL_PAIRS_MIN - 2, 6.0, True),
        (DUEL_PAIRS_MIN - 3, 3.0, False),  # late in vain: three pairs are missing, and one would fit
    ],
)
def test_a_pair_may_be_late_only_where_it_brings_a_verdict(done, deadline_s, holds):
    """Pairs of 4 s, and 2 s of grace."""
    assert _TimeLeft(deadline_s, late_s=2.0).holds(4.0, done) == holds


def test_what_comes_before_the_pair_counts():
    """Another start of both sides takes its time first."""
    assert _TimeLeft(10.0, late_s=0.0).holds(4.0, 20, before_s=6.0)
    assert not _TimeLeft(10.0, late_s=0.0).holds(4.0, 20, before_s=6.1)
