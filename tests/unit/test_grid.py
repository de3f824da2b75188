"""The grid search on made-up surfaces: what it asks first, adds, leaves out, and how it keeps its time."""

import math

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from loadtune.advice.axes import auto_batches, auto_workers, default_baseline, parse_axis
from loadtune.advice.budget import divide_budget, plan_duel
from loadtune.advice.feasibility import Obstacle
from loadtune.advice.grid import GridSearch
from loadtune.advice.search import with_axes
from loadtune.errors import UsageError
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.resources import ResourceTrace
from loadtune.records.settings import Settings
from tests.fake_runner import FakeRunner, complete_result, drive
from tests.strategies import BASELINE

WORKERS = (0, 1, 2, 4, 8)


def flat(settings: Settings) -> float:
    return 100.0


def rising(settings: Settings) -> float:
    return 10.0 * max(1, settings.num_workers)


def points(runner: FakeRunner, number: int | None = None) -> list[tuple[int, int]]:
    """End-to-end points in the order they ran, of one round or of all."""
    return [
        (leg.settings.num_workers, leg.settings.batch_size)
        for leg in runner.legs
        if (leg.feed, leg.consume) == ("loader", "device") and number in {None, leg.round} and leg.obstacle is None
    ]


def run(surface=flat, seconds: float = 300.0, *, workers=WORKERS, batches=(8,), runner=None, **options):
    """Drive a grid search to its end."""
    search = GridSearch(BASELINE, workers, batches, **options)
    runner = runner or FakeRunner(surface)
    drive(search, runner, seconds)
    return search, runner


def test_what_every_answer_needs_comes_first():
    """Baseline end to end, the device alone, the loader alone; then the grid."""
    _, runner = run()
    first = [(leg.role, leg.feed, leg.consume, leg.settings.num_workers) for leg in runner.legs[:3]]
    assert first == [
        ("baseline", "loader", "device", 2),
        ("ceiling", "resident", "device", 2),
        ("loader", "loader", "nothing", 2),
    ]
    assert {leg.role for leg in runner.legs[3:]} <= {"grid", "baseline"}


def test_device_ceiling_is_left_out_on_request():
    """Where the device has no rate of its own, no leg goes to it; the loader's rates are still wanted."""
    _, runner = run(measure_device=False, loader_alone=(1, 4))
    assert [leg.feed for leg in runner.legs].count("resident") == 0
    assert [leg.settings.num_workers for leg in runner.legs if leg.consume == "nothing"] == [1, 4]


def test_every_round_holds_the_control_and_zero_workers_is_a_row():
    """Three rounds in 300 s, each with the baseline, in changing order; nothing twice within a round."""
    _, runner = run(workers=(2, 4, 8))
    rounds = [points(runner, number) for number in range(3)]
    assert [sorted(each) for each in rounds] == [[(0, 8), (2, 8), (4, 8), (8, 8)]] * 3
    assert len({tuple(each) for each in rounds}) == 3


def test_search_is_deterministic():
    """The same results lead to the same legs; another seed to another order."""
    assert run()[1].legs == run()[1].legs
    assert run()[1].legs != run(seed=1)[1].legs


@pytest.mark.parametrize("seconds", [25.0, 60.0, 120.0])
def test_legs_shrink_to_the_seconds_left(seconds):
    """Eight legs and the rounds after them end in time, and the first round is whole."""
    _, runner = run(seconds=seconds)
    assert runner.seconds <= seconds
    assert {workers for workers, _ in points(runner, 0)} == set(WORKERS)


def test_more_seconds_give_more_rounds():
    """One round in 20 s, three in 120 s, never more."""
    assert [max(leg.round for leg in run(seconds=each)[1].legs) for each in (20.0, 120.0, 1000.0)] == [
        0,
        2,
        2,
    ]


def test_what_was_not_measured_is_said():
    """Ten seconds hold no round of eight legs: the search stops and names what is missing."""
    search, runner = run(seconds=10.0)
    assert runner.seconds <= 10.0
    assert len(points(runner)) < len(WORKERS)
    assert any("Not measured in round 1" in note for note in search.notes())


def test_a_leg_that_did_not_fit_comes_first_when_there_is_more_time():
    """Seconds that were kept for a duel go back to the search, and nothing of the round is lost."""
    search = GridSearch(BASELINE, WORKERS, (8,))
    assert search.ask(0.5) is None
    assert "Not measured" in search.notes()[-1]
    runner = FakeRunner(flat)
    drive(search, runner, 60.0)
    assert {workers for workers, _ in points(runner, 0)} == set(WORKERS)
    assert not any("Not measured in round 1" in note for note in search.notes())


def test_no_seconds_no_leg():
    """Nothing is asked for, and the notes list the whole round."""
    search = GridSearch(BASELINE, WORKERS, (8,))
    assert search.ask(0.0) is None
    assert "num_workers=8 batch_size=8" in search.notes()[0]


def test_edge_is_extended_while_it_pays():
    """Rates rise to 32 workers: 16, 32 and 64 are added, and no more."""
    search, runner = run(lambda each: float(min(32, max(1, each.num_workers))), may_extend_workers=True)
    assert sorted({workers for workers, _ in points(runner)}) == [0, 1, 2, 4, 8, 16, 32, 64]
    assert sum("edge of the grid" in note for note in search.notes()) == 3


def test_edge_stays_where_it_is_flat_fixed_or_at_the_cap():
    """No point is added on a plateau, without permission, or beyond the cap."""
    assert max(points(run(flat, may_extend_workers=True)[1]))[0] == 8
    assert max(points(run(rising)[1]))[0] == 8
    assert max(points(run(rising, may_extend_workers=True, workers_max=12)[1]))[0] == 12


def test_batch_edge_is_extended():
    """A rate that grows with the batch adds the double at the best worker count."""
    _, runner = run(lambda each: float(each.batch_size), batches=(8, 16), may_extend_batch=True, batch_max=64)
    assert max(batch for _, batch in points(runner)) == 64


def test_hopeless_settings_are_not_repeated():
    """0 and 1 workers reach a tenth of the best; later rounds leave them out, but keep the baseline."""
    _, runner = run(rising)
    assert {workers for workers, _ in points(runner, 1)} == {2, 8}


def test_other_batches_come_where_they_may_win_and_the_rest_last():
    """Larger batches run at the good worker counts first; a long budget completes the grid."""
    order = points(run(rising, batches=(8, 16), seconds=400.0)[1])
    assert order.index((8, 16)) < order.index((0, 16))
    assert {(workers, 16) for workers in WORKERS} <= set(order)


def test_forbidden_setting_is_skipped_with_its_arithmetic():
    """The leg carries the text, costs no time, and does not come back."""
    obstacle = Obstacle(Cause.HOST_MEMORY, "8 x 2 GB > 12 GB")
    _, runner = run(obstacle=lambda each: obstacle if each.num_workers == 8 else None)
    skipped = [leg for leg in runner.legs if leg.obstacle is not None]
    assert [(leg.settings.num_workers, leg.obstacle) for leg in skipped] == [(8, obstacle)]
    assert [each.state for each in runner.results].count(TrialState.SKIPPED) == 1


def test_failed_setting_is_not_asked_again():
    """One crash, one trial; the others go on through all rounds."""
    runner = FakeRunner(flat, failure_cause=lambda each: Cause.USER_CODE if each.num_workers == 4 else None)
    run(runner=runner)
    assert points(runner).count((4, 8)) == 1
    assert points(runner).count((8, 8)) == 3


def test_device_out_of_memory_rules_out_larger_batches():
    """Batch 16 fails once; every other setting at 16 or 32 is skipped with that reason."""
    runner = FakeRunner(flat, failure_cause=lambda each: Cause.DEVICE_MEMORY if each.batch_size >= 16 else None)
    run(runner=runner, batches=(8, 16, 32))
    assert [batch for _, batch in points(runner) if batch > 8] == [16]
    assert any(leg.obstacle is not None and "out of device memory" in leg.obstacle.arithmetic for leg in runner.legs)


def test_host_out_of_memory_rules_out_more_workers_and_no_fewer():
    """An out-of-memory corner: what is larger in both axes is skipped, what is smaller runs."""
    runner = FakeRunner(
        flat,
        failure_cause=lambda each: Cause.HOST_MEMORY if each.num_workers * each.batch_size >= 64 else None,
    )
    run(runner=runner, workers=(0, 2, 4, 8, 16), batches=(8, 16))
    states = {each.settings: each.state for each in runner.results}
    assert states[Settings(num_workers=2, batch_size=16)] is TrialState.COMPLETE
    assert sum(each.state is TrialState.OUT_OF_MEMORY for each in runner.results) <= 3


def test_failing_baseline_does_not_end_the_search():
    """The other settings are measured."""
    runner = FakeRunner(flat, failure_cause=lambda each: Cause.WORKER if each == BASELINE else None)
    run(runner=runner)
    assert {workers for workers, _ in points(runner, 1)} == {0, 1, 4, 8}


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.floats(1, 400), st.floats(0.1, 10), st.integers(0, 5), st.sampled_from([flat, rising]))
def test_time_is_never_overdrawn(seconds, overhead_s, seed, surface):
    """Nothing but the first leg's unknown overhead is spent beyond the seconds; planned() ends exact."""
    runner = FakeRunner(surface, noise_sd=0.05, overhead_s=overhead_s, seed=seed)
    search, _ = run(runner=runner, seconds=seconds, batches=(4, 8, 16), may_extend_workers=True, seed=seed)
    assert runner.seconds <= seconds + (overhead_s if len(runner.results) == 1 else 0.0) + 1e-6
    assert search.planned() == len(runner.results)


def test_zero_workers_drops_what_dataloader_refuses():
    """prefetch_factor and persistent_workers have no meaning without workers, and come back with them."""
    own = Settings(num_workers=2, batch_size=8, prefetch_factor=4, persistent_workers=True, pin_memory=True)
    none = with_axes(own, 0, 16)
    assert none == Settings(num_workers=0, batch_size=16, pin_memory=True)
    assert with_axes(own, 4, 8).prefetch_factor == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,2,4-8:2", (0, 2, 4, 6, 8)),
        ("3", (3,)),
        (" 4 , 2,2", (2, 4)),
        ("1-3", (1, 2, 3)),
        ("2-9:4", (2, 6)),
    ],
)
def test_axis_is_parsed(text, expected):
    """Numbers and ranges, sorted and without doubles."""
    assert parse_axis(text, "--num-workers") == expected


@pytest.mark.parametrize("text", ["", "a", "-1", "4-2", "1-4:0", "1,,2", "1.5", "99999999", "2:4"])
def test_bad_axis_is_a_usage_error(text):
    """The message names the option and the offending item."""
    with pytest.raises(UsageError, match="--num-workers"):
        parse_axis(text, "--num-workers")


def test_axis_has_a_minimum():
    """No batch of zero."""
    with pytest.raises(UsageError, match="at least 1"):
        parse_axis("0,8", "--batch-size", minimum=1)


@pytest.mark.parametrize(
    ("cores", "count", "device", "expected"),
    [
        (2.0, 1000, "replay", (0, 1, 2, 4, 8, 16)),
        (8.0, None, "cuda", (0, 1, 2, 4, 8, 16, 32)),
        (2.0, 1000, "cpu", (0, 1)),
        (1.0, 1000, "cpu", (0,)),
        (8.0, 1000, "cpu", (0, 1, 2, 4)),
        (2.0, 24, "cuda", (0, 1, 2)),
    ],
)
def test_default_worker_counts_follow_cores_data_and_device(cores, count, device, expected):
    """Up to the larger of 16 and 4 a core; no more than batches; on the CPU only what training leaves."""
    assert auto_workers(cores, count, 8, device) == expected


def test_default_batches_double():
    """Twice on the CPU, four times elsewhere, never below 2 nor above the data set."""
    assert auto_batches(8, "cuda") == (8, 16, 32)
    assert auto_batches(8, "cpu") == (8, 16)
    assert auto_batches(1, "cpu") == (2, 4)
    assert auto_batches(8, "replay", sample_count=20) == (8, 16)


def test_default_baseline_is_torchs_suggestion():
    """As many workers as the scheduler mask has CPUs."""
    assert default_baseline(4, 16) == Settings(num_workers=4, batch_size=16)


@given(st.floats(1, 3600), st.floats(0, 4000))
def test_budget_parts_never_exceed_what_is_left(budget_s, spent_s):
    """Screening, duel and reserve add up to the rest, or to nothing but the reserve."""
    parts = divide_budget(budget_s, spent_s)
    assert min(parts.screening_s, parts.duel_s) >= 0.0
    left_s = max(budget_s - spent_s, parts.reserve_s)
    assert math.isclose(parts.screening_s + parts.duel_s + parts.reserve_s, left_s, rel_tol=1e-9)


@given(st.floats(0, 300), st.floats(0, 20))
def test_planned_duel_fits_its_seconds(duel_s, start_s):
    """At least eight pairs and two starts, or no duel."""
    plan = plan_duel(duel_s, start_s)
    if plan is not None:
        assert plan.pairs >= 8
        assert plan.restarts >= 2
        assert plan.restarts * start_s + 2 * plan.pairs * plan.slice_s <= duel_s + 1e-6
    else:
        assert duel_s - 2 * start_s < 8.0 + 1e-6


def test_slow_trial_that_others_disturbed_is_measured_again() -> None:
    """What a neighbour slowed down is not called hopeless; what was slow by itself is."""

    def again(foreign_cores: float) -> bool:
        search = GridSearch(BASELINE, (0, 2, 4), (BASELINE.batch_size,), measure_device=False, loader_alone=())
        results: list[Settings] = []
        while (leg := search.ask(60.0)) is not None:
            is_slow = leg.settings.num_workers == 4
            trace = ResourceTrace(started_monotonic_s=0.0, mean_foreign_cores=foreign_cores if is_slow else 0.0)
            fields = {"role": leg.role, "round": leg.round, "trace": trace, "number": len(results) + 1}
            search.tell(complete_result(leg.settings, 50.0 if is_slow else 100.0, **fields))
            results.append(leg.settings)
        return sum(each.num_workers == 4 for each in results) > 1

    assert again(foreign_cores=1.0)
    assert not again(foreign_cores=0.0)
