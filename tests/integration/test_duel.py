"""Does a duel find a ratio that is known beforehand? Real process groups, frozen by turns."""

import time
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from loadtune.advice.budget import DuelPlan
from loadtune.confirming import _hold
from loadtune.engine.abba import fits_together, hold_abba
from loadtune.engine.duel import DuelInterruptedError, apart, hold_duel
from loadtune.engine.sides import Arena, FreezeForbiddenError
from loadtune.monitor.host import read_limits
from loadtune.monitor.sampler import Sampler
from loadtune.payload import share_objects
from loadtune.records.measurement import Cause
from loadtune.records.messages import Sources
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.report import Verdict
from loadtune.records.settings import DeviceChoice
from loadtune.stats import duel_interval, verdict
from tests.integration.conftest import group_members, make_runner, make_spec, quick, replay
from tests.targets.truth import SAMPLE_S, Dying

TRUTH = "tests.targets.truth:"
ATTEMPTS = 3
"""Others work on the machine too: a ratio that is off may be theirs, one that is off three times is not."""


def make_arena(launcher, sources=None, memory_end_bytes=1 << 40, baseline_lacks="nothing"):
    return Arena(
        launcher=launcher,
        sources=sources or Sources(),
        memory_end_bytes=memory_end_bytes,
        foreign_limit_cores=0.1 * read_limits().usable_cores,
        baseline_lacks=baseline_lacks,
    )


def hold(launcher, baseline, contender, plan=None, *, limit_s=60.0, told=None, **arena):
    plan = plan or DuelPlan(pairs=8, slice_s=0.6, restarts=2)
    report = (lambda done, planned: None) if told is None else told
    return hold_duel(make_arena(launcher, **arena), baseline, contender, plan, time.monotonic() + limit_s, report)


def near(hold_one, ratio, within):
    """The first of a few duels whose estimate comes near the true ratio."""
    for _ in range(ATTEMPTS):
        duel = hold_one()
        interval = duel_interval(duel.pairs)
        if interval.estimate == pytest.approx(ratio, rel=within):
            return duel, interval
    pytest.fail(f"{interval} after {ATTEMPTS} duels, {ratio} is true")


def side(device_s, **changes):
    return make_spec(TRUTH + "instant", 1, batch_size=8, device=replay(device_s), **changes)


def test_a_faster_device_is_faster_by_its_true_ratio(launcher):
    """Step times of 50 and 40 ms: 1.25, and the pairs alternate their order within and across restarts."""
    told = []
    duel, interval = near(
        lambda: hold(launcher, side(0.05), side(0.04), told=lambda *each: told.append(each)), 1.25, 0.05
    )
    assert interval.low > 1.1
    assert duel.failure is None
    assert len(duel.pairs) == 8
    assert [pair.restart for pair in duel.pairs] == [0] * 4 + [1] * 4
    assert [pair.baseline_first for pair in duel.pairs] == [True, False, True, False, False, True, False, True]
    assert told[-2:] == [(4, 8), (8, 8)]


def test_a_device_that_runs_on_while_its_side_is_frozen_gains_nothing(launcher):
    """Long steps with four queued ahead, against a loader of the same rate that nothing runs ahead of."""
    queued = make_spec(TRUTH + "instant", 1, batch_size=4, device=replay(2 * SAMPLE_S, run_ahead_steps=4))
    loading = make_spec(TRUTH + "waiting", 2, batch_size=4)  # two workers, 4 x 50 ms a batch: a batch every 100 ms
    plan = DuelPlan(pairs=4, slice_s=1.5, restarts=1)
    near(lambda: hold(launcher, loading, queued, plan), 1.0, 0.08)


def test_workers_that_wait_are_compared_truly(launcher):
    """Three workers against two on data that only wait: 1.5."""
    two, three = (make_spec(TRUTH + "waiting", number, batch_size=1) for number in (2, 3))
    near(lambda: hold(launcher, two, three, DuelPlan(pairs=4, slice_s=1.2, restarts=1)), 1.5, 0.1)


def test_a_setting_against_itself_is_not_faster(launcher):
    """FASTER is said of equals once in 40; four times in a row it is a fault."""
    for _ in range(ATTEMPTS + 1):
        duel, interval = near(lambda: hold(launcher, side(0.05), side(0.05)), 1.0, 0.03)
        if verdict(interval) is not Verdict.FASTER:
            break
    assert verdict(interval) is not Verdict.FASTER
    assert duel.method == "frozen"


def test_steps_of_half_a_second_on_the_host_are_counted_exactly(launcher):
    """A slice cuts every third of them; what was frozen before, between and after the slices is no time of a step."""
    points = tuple(ProfilePoint(batch_size=size, device_s=0.0, host_cpu_s=0.5) for size in (1, 64))
    device = DeviceChoice(kind="replay", profile=ReplayProfile(name="x", origin="estimated", points=points))
    spec = make_spec(TRUTH + "instant", 0, batch_size=8, device=device)
    for _ in range(ATTEMPTS):
        duel = hold(launcher, spec, spec, DuelPlan(pairs=2, slice_s=1.8, restarts=1))
        rates = [pair.baseline_samples / pair.baseline_s for pair in duel.pairs]
        rates += [pair.contender_samples / pair.contender_s for pair in duel.pairs]
        if rates == pytest.approx([16.0] * 4, rel=0.03):
            return
    pytest.fail(f"{rates} samples a second, 16 are true")


def test_a_plain_loop_runs_as_fast_as_a_measured_one(launcher):
    """The same device, data and step; the baseline without a stamp or a mark."""
    _, interval = near(lambda: hold(launcher, side(0.05), side(0.05), baseline_lacks="stamps"), 1.0, 0.03)
    assert interval.trusted


def test_a_plain_loop_shows_what_is_slower(launcher):
    """Were measuring to cost a fifth, the plain loop would show it."""
    _, interval = near(lambda: hold(launcher, side(0.04), side(0.05), baseline_lacks="stamps"), 0.8, 0.03)
    assert interval.high < 0.97


def test_slices_without_readings_are_slices_too(launcher):
    """The sampler rests while the baseline runs."""
    rests = []
    real = Sampler.rest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "rest", lambda self, value: rests.append(value) or real(self, value))
        near(lambda: hold(launcher, side(0.05), side(0.05), baseline_lacks="sampler"), 1.0, 0.03)
    assert rests[:4] == [True, False, False, True]


@pytest.mark.parametrize(
    ("cache", "firsts"),
    [
        ("warm", [(5, 5), (100_008, 100_008)]),
        ("partly warm", [(5, 5)] * 2),
        ("cold", [(5, 100_008), (200_011, 300_014)]),
    ],
)
def test_starts_begin_apart_and_no_side_warms_the_cache_for_the_other(cache, firsts):
    """Fresh samples a start where all are warm; fresh samples a side where none are."""
    spec = make_spec(cache=cache, first_sample=5)
    assert [tuple(apart(spec, start, each).first_sample for each in (0, 1)) for start in (0, 1)] == firsts


def test_nothing_of_either_side_is_left(launcher):
    """Frozen groups end too."""
    before = set(launcher._alive)
    started = []
    start = launcher.start
    launcher.start = lambda task: started.append(start(task)) or started[-1]
    try:
        hold(launcher, side(0.02), side(0.02), DuelPlan(pairs=2, slice_s=0.5, restarts=2))
    finally:
        del launcher.start
    assert len(started) == 4
    assert set(launcher._alive) == before
    assert [each.pid for each in started if group_members(each.pid)] == []


def dying(launcher, life_s, plan):
    """A duel of a data set that ends its process after some seconds, wherever it runs."""
    with ExitStack() as stack:
        sources = Sources(payload_path=share_objects({"dataset": Dying(life_s)}, stack))
        specs = [make_spec("", 0, batch_size=2) for _ in range(2)]
        return hold(launcher, *specs, plan, sources=sources)


def test_where_a_process_may_not_be_stopped_the_duel_says_so(launcher, monkeypatch):
    """No permission to signal, or a sandbox in which SIGSTOP does nothing; the side that was started is gone."""

    def forbid(self, number):
        raise PermissionError

    monkeypatch.setattr("loadtune.engine.launcher.TrialProcess.signal_group", forbid)
    with pytest.raises(FreezeForbiddenError, match="may not be signalled"):
        hold(launcher, side(0.02), side(0.02))
    monkeypatch.setattr("loadtune.engine.launcher.TrialProcess.signal_group", lambda self, number: None)
    monkeypatch.setattr("loadtune.engine.sides.STOP_LIMIT_S", 0.2)
    with pytest.raises(FreezeForbiddenError, match="went on"):
        hold(launcher, side(0.02), side(0.02))
    assert launcher._alive == {}


def test_a_probe_then_alternates_fresh_runs(launcher, monkeypatch):
    """ABBA, and its note says why."""

    def forbidden(*arguments):
        raise FreezeForbiddenError("processes may not be signalled here")

    monkeypatch.setattr("loadtune.confirming.hold_duel", forbidden)
    run = SimpleNamespace(arena=object(), runner=make_runner(launcher))
    duel = _hold(run, side(0.05), side(0.04), None, time.monotonic(), lambda done, planned: None, None)
    assert duel.method == "abba"
    assert duel.notes == ("Processes may not be signalled here, so fresh runs alternated (ABBA).",)


def test_a_side_that_dies_in_the_middle_leaves_the_pairs_before_it(launcher):
    """The failure is told, and what was measured counts for what it is worth."""
    duel = dying(launcher, 3.2, DuelPlan(pairs=20, slice_s=0.5, restarts=1))
    assert duel.failure.cause is Cause.EXIT
    assert "exit code 9" in duel.failure.message
    assert 1 <= len(duel.pairs) < 8
    assert all(pair.baseline_samples > 0 and pair.contender_samples > 0 for pair in duel.pairs)
    assert "exit code 9" in duel.notes[0]


def test_a_side_that_cannot_start_is_a_failure_with_its_log(launcher):
    """No pair, and the reason is the user's own."""
    duel = hold(launcher, side(0.02), make_spec("tests.targets.trouble:refuses_to_be_made"))
    assert duel.failure.cause is Cause.USER_CODE
    assert "no annotations here" in duel.failure.message
    assert "LookupError" in duel.failure.log_tail
    assert duel.pairs == ()
    assert launcher._alive == {}


def test_a_side_that_does_not_get_warm_is_given_up(launcher, monkeypatch):
    """The deadline of the duel, or what a first start is worth, is the longest wait."""
    monkeypatch.setattr("loadtune.engine.sides.START_LIMIT_S", 1.0)
    slow = make_spec("tests.targets.trouble:hangs_at_once", 1, measure=quick(cap_s=1.0))
    duel = hold(launcher, side(0.02), slow, limit_s=0.5)
    assert duel.failure.cause is Cause.DEADLINE
    assert duel.pairs == ()


def test_both_sides_together_are_held_below_the_memory_limit(launcher):
    """The parent ends the duel before the kernel picks a victim, while the sides are starting already."""
    broken = make_spec("tests.targets.trouble:slow", 0, measure=quick(cap_s=30.0))
    duel = hold(launcher, broken, side(0.02), memory_end_bytes=1)
    assert duel.seconds_spent < 5
    assert duel.failure.cause is Cause.HOST_MEMORY
    assert duel.pairs == ()


def test_time_that_is_up_ends_a_duel_after_whole_pairs(launcher):
    """No pair begins after it, the first of a start apart."""
    plan = DuelPlan(pairs=40, slice_s=0.5, restarts=2)
    duel = hold(launcher, side(0.02), side(0.02), plan, limit_s=3.0)
    assert duel.failure is None
    assert 1 <= len(duel.pairs) < 8
    assert duel.seconds_spent < 12


def test_an_interrupt_carries_the_finished_starts(launcher, monkeypatch):
    """Ctrl-C in the second start: the pairs of the first are in the duel that the exception holds."""
    told = []

    def poll(timeout_s, real=launcher.poll):
        real(timeout_s)
        if told:
            raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "poll", poll)
    plan = DuelPlan(pairs=4, slice_s=0.5, restarts=2)
    with pytest.raises(DuelInterruptedError) as raised:
        hold(launcher, side(0.02), side(0.02), plan, told=lambda *each: told.append(each))
    assert len(raised.value.duel.pairs) == 2
    monkeypatch.undo()
    for process in list(launcher._alive.values()):
        launcher.release(process)
    assert launcher._alive == {}


def test_fresh_runs_in_turns_find_the_ratio_too(launcher):
    """ABBA, for sides that do not fit into memory together."""
    told = []

    def hold_one():
        return hold_abba(
            make_runner(launcher), side(0.05), side(0.04), 4, time.monotonic() + 60, lambda *each: told.append(each)
        )

    duel, _ = near(hold_one, 1.25, 0.05)
    assert len(duel.pairs) == 4
    assert duel.method == "abba"
    assert [pair.baseline_first for pair in duel.pairs] == [True, False, True, False]
    assert [pair.restart for pair in duel.pairs] == [0, 1, 2, 3]
    assert told[-1] == (4, 4)
    assert "ABBA" in duel.notes[0]


def test_fresh_runs_stop_at_a_failure_or_when_time_is_up(launcher):
    """The pairs before it stay."""
    runner = make_runner(launcher)

    def told(done, planned):
        return None

    broken = make_spec("tests.targets.trouble:raises")
    failed = hold_abba(runner, side(0.02), broken, 4, time.monotonic() + 60, told)
    assert failed.failure.cause is Cause.USER_CODE
    assert failed.pairs == ()
    late = hold_abba(runner, side(0.02), side(0.02), 4, time.monotonic(), told)
    assert late.failure is None
    assert len(late.pairs) == 1


def test_two_sides_fit_where_every_resource_suffices():
    """Unknown sizes and limits are taken to fit: a duel watches its memory."""
    assert fits_together([([400, 500], 1000), ([1, 1], None)])
    assert not fits_together([([400, 500], 1000), ([400, 601], 1000)])
    assert fits_together([([None, 900], 1000)])
    assert fits_together([])
