"""Does the jitter benchmark simulate what it says, and score it as it promises?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import jitter
from benchmarks.jitter import RULES, Thresholds, View, ask_article, ask_loadtune, ask_sagemaker, find_stall, fit
from benchmarks.jitter_worlds import BATCH, LEAVE, PATTERNS, SIGHTS, STEPS_S, WORKERS, look, make_world

REMEDIES = (WORKERS, BATCH, LEAVE)
SIXTH, SECOND, SIXTH_POLLED, SECOND_POLLED = SIGHTS


def world_of(pattern, step_s=0.06, share=0.5, seed=0):
    return make_world(pattern, step_s, np.random.default_rng(seed), share)


def seen(world, sight=SIXTH):
    return look(world, sight, np.random.default_rng(1))


@pytest.mark.parametrize("pattern", [pattern for pattern, remedy in PATTERNS.items() if remedy is not LEAVE])
@pytest.mark.parametrize("step_s", [0.01, 0.1])
def test_half_busy_worlds_are_half_busy(pattern, step_s):
    """Whatever the pattern, so that only its shape tells it."""
    assert np.mean(seen(world_of(pattern, step_s))) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("pattern", "sixth", "second"),
    [
        ("stalled every step", (0.05, 0.20), (0.0, 0.06)),
        ("in bursts of 4", (0.30, 0.48), (0.0, 0.15)),
        ("in bursts of 16", (0.40, 0.50), (0.20, 0.40)),
        ("launch-bound", (0.0, 0.03), (0.0, 0.03)),
    ],
)
def test_jitter_is_what_square_waves_give(pattern, sixth, second):
    """Steps of 60 ms, half busy: deviations of 10, 37, 47 and 0 % at 1/6 s, of 2, 2, 28 and 0 % at 1 s."""
    world = world_of(pattern)
    for (low, high), sight in ((sixth, SIXTH), (second, SECOND)):
        assert low <= np.std(seen(world, sight)) <= high


@given(st.sampled_from(list(PATTERNS)), st.sampled_from(STEPS_S), st.integers(0, 2**32 - 1))
def test_a_world_is_in_order_and_its_utilisation_a_share(pattern, step_s, seed):
    """Steps and kernels do not overlap, cover the time that is watched, and are seen as whole per cent."""
    world = make_world(pattern, step_s, np.random.default_rng(seed))
    for starts, ends in ((world.step_starts, world.step_ends), (world.kernel_starts, world.kernel_ends)):
        assert np.all(ends > starts)
        assert np.all(starts[1:] >= ends[:-1] - 1e-9)
    assert len(world.step_ends) == 0 or world.step_ends[-1] > 0.0
    for sight in SIGHTS:
        shares = seen(world, sight)
        assert np.all((shares >= 0) & (shares <= 1))
        assert np.allclose(shares * 100, np.round(shares * 100))


def test_polling_sees_windows_again_or_leaves_them_out():
    """Every half second: a window of a second is seen twice, of those of a sixth one in three."""
    world = world_of("at random")
    every, polled = seen(world, SECOND), seen(world, SECOND_POLLED)
    assert len(polled) == pytest.approx(2 * len(every), abs=4)
    assert set(polled) <= set(every)
    assert len(seen(world, SIXTH_POLLED)) == pytest.approx(len(seen(world, SIXTH)) / 3, abs=4)


def test_a_stall_is_found_in_the_steps():
    """As a trial would: what a resident batch idles too is none."""
    assert find_stall(world_of("stalled every step")) == pytest.approx(0.5, abs=0.03)
    assert find_stall(world_of("at random", share=0.3)) == pytest.approx(0.3, abs=0.05)
    assert find_stall(world_of("launch-bound")) < 0.01
    assert find_stall(world_of("healthy", share=0.0)) < 0.01


@pytest.mark.parametrize(
    ("shares", "article", "sagemaker"),
    [
        ([0.0, 1.0] * 60, WORKERS, WORKERS),
        ([0.35] * 120, BATCH, BATCH),
        ([0.97] * 120, LEAVE, LEAVE),
        ([0.3, 0.6] * 60, LEAVE, BATCH),
        ([0.2, 0.9] * 60, WORKERS, LEAVE),
    ],
)
def test_the_two_rules_of_utilisation(shares, article, sagemaker):
    """Deviation first, then the mean; p95 first, then p5."""
    shares = np.array(shares)
    assert ask_article(shares, Thresholds(jitter=0.2, low=0.4)) == article
    assert ask_sagemaker(shares) == sagemaker


def test_loadtune_asks_the_steps_first():
    """The same utilisation, three answers; without a stall it is the utilisation that is low or not."""
    low, high = np.full(120, 0.5), np.full(120, 0.98)
    assert ask_loadtune(low, 0.4, SIXTH) == WORKERS
    assert ask_loadtune(low, 0.0, SIXTH) == BATCH
    assert ask_loadtune(high, 0.0, SIXTH) == LEAVE
    assert ask_loadtune(high, 0.06, SECOND_POLLED) == WORKERS


def test_the_article_s_thresholds_are_the_best_of_their_grid():
    """Where deviation and mean do tell, all is right."""
    ideal = [
        View(world_of("in bursts of 4"), np.array([0.0, 1.0] * 20)),
        View(world_of("launch-bound"), np.full(40, 0.6)),
        View(world_of("healthy", share=0.0), np.full(40, 0.97)),
    ]
    chosen = fit(ideal)
    assert [ask_article(view.utilisation, chosen) for view in ideal] == [WORKERS, BATCH, LEAVE]


def test_the_score_counts_each_remedy_the_same(monkeypatch):
    """Four patterns ask for workers: always saying so is right in a third, not in two thirds."""
    monkeypatch.setattr(jitter, "RUNS", 1)
    worlds = jitter.make_worlds(0)
    views = [View(world, np.zeros(2)) for world in worlds]
    rows = jitter.score(views, [WORKERS] * len(worlds), SIXTH, "article")
    assert len(rows) == len(PATTERNS) * len(STEPS_S)
    assert jitter.share_right(rows, "article") == pytest.approx(1 / 3)
    assert jitter.share_right(rows, "article", pattern="launch-bound") == 0.0
    assert jitter.share_right(rows, "loadtune") is None
    assert jitter.share_blamed(rows, "article") == 1.0
    gains = {remedy: sum(np.log(world.gain_ratio) for world in worlds if world.remedy == remedy) for remedy in REMEDIES}
    assert gains[LEAVE] == 0.0
    assert jitter.share_kept(rows, "article") == pytest.approx(gains[WORKERS] / sum(gains.values()), abs=1e-3)


def test_the_table_and_the_promises_need_rows(monkeypatch):
    """None measured, none told; and a rule that is always right keeps every promise."""
    assert all(criterion.met is None for criterion in jitter.judge([]))
    assert len(jitter.tabulate([])) == 1
    monkeypatch.setattr(jitter, "RUNS", 1)
    worlds = jitter.make_worlds(0)
    views = [View(world, np.zeros(2)) for world in worlds]
    truth = [world.remedy for world in worlds]
    rows = [row for sight in SIGHTS for rule in RULES for row in jitter.score(views, truth, sight, rule)]
    assert all(criterion.met for criterion in jitter.judge(rows))
    assert len(jitter.tabulate(rows)) == 1 + len(SIGHTS) * len(RULES)
    always_wrong = {"value": 0.0, "log_gain_kept": 0.0, "said": {WORKERS: 1}}
    wrong = [row | always_wrong if row["quantity"] == "loadtune" else row for row in rows]
    assert not any(criterion.met for criterion in jitter.judge(wrong))
