"""Where time goes sums to one, follows what was measured, and what changes could win is bounded by the ceilings."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.advice.attribution import attribute
from loadtune.advice.case import Case
from loadtune.records.measurement import WorkerCost
from loadtune.records.settings import Settings
from tests.unit.test_more_rules import FULL, IDLE, LIMITS, alone, run, taking, times

SHARES = st.tuples(*(st.floats(0, 1) for _ in range(4))).filter(lambda each: sum(each) > 0.01)
SECONDS = st.none() | st.floats(0, 0.1)


def look(chosen, **fields):
    options = {"limits": LIMITS, "device": "cuda", "sample_count": 10**4, "baseline": None} | fields
    return attribute(Case(chosen=chosen, **options))


def ratios(found):
    return {share.where: share.ratio for share in found.shares}


def bounds(found):
    return {each.change: each.bound_rate_per_s for each in found.what_ifs}


@given(SHARES, SECONDS, SECONDS, SECONDS, st.integers(0, 8), st.none() | st.floats(5, 400), st.none() | st.floats(0, 9))
def test_shares_sum_to_one_and_bounds_lie_above_today(split, cpu, delayed, blocked, workers, other_rate, boundary):
    """Whatever is known or not."""
    stall, gap, copy, _ = (each / sum(split) for each in split)
    known = [each for each in (cpu, delayed, blocked) if each is not None]
    worker = times(
        busy_s_per_sample=max(1e-4, sum(known)),
        cpu_s_per_sample=cpu,
        delayed_s_per_sample=delayed,
        blocked_s_per_sample=blocked,
        collate_s_per_sample=0.001,
    )
    trial = run(
        stall=stall,
        gap=gap,
        copy=copy,
        worker=worker,
        settings=Settings(num_workers=workers, batch_size=16),
        epoch_boundary_s=boundary,
    )
    found = look(trial, others=() if other_rate is None else (alone(other_rate),))
    assert sum(ratios(found).values()) == pytest.approx(1.0)
    assert all(each is None or each >= 100.0 * (1 - 1e-9) for each in bounds(found).values())
    assert all(each.reason for each in found.what_ifs if each.bound_rate_per_s is None)
    by_name = bounds(found)
    if by_name.get("data in RAM") is not None:
        assert by_name["data in RAM"] >= by_name["storage twice as fast"] * (1 - 1e-9)


def test_the_waiting_is_split_by_the_workers_time():
    """Half blocked, a quarter ready without a core, a tenth in collate_fn, the rest preparing."""
    worker = times(
        busy_s_per_sample=0.02,
        cpu_s_per_sample=0.005,
        delayed_s_per_sample=0.005,
        blocked_s_per_sample=0.01,
        collate_s_per_sample=0.002,
    )
    found = ratios(look(run(stall=0.4, copy=0.1, worker=worker)))
    expected = {"reading": 0.2, "contention": 0.1, "moving": 0.04, "preparing": 0.06, "copying": 0.1, "computing": 0.5}
    assert found == pytest.approx(expected, abs=0.001)


def test_how_open_the_split_is_follows_from_the_workers_time():
    """Two workers, a batch each 0.16 s: reading alone would explain 0.08 s of the 0.064 s waited, the rest as much."""
    worker = times(cpu_s_per_sample=0.01, delayed_s_per_sample=0.0, blocked_s_per_sample=0.01, collate_s_per_sample=0.0)
    trial = run(stall=0.4, worker=worker)
    windows = trial.measurement.windows * 2
    twice = msgspec.structs.replace(trial.measurement, windows=windows)
    found = look(msgspec.structs.replace(trial, measurement=twice))
    errors = {share.where: share.error_ratio for share in found.shares}
    assert errors["reading"] == pytest.approx(0.2, abs=0.01)
    assert errors["computing"] == pytest.approx(0.0, abs=1e-9)
    assert {share.error_ratio for share in look(trial).shares} == {None}


def test_what_is_not_known_is_not_split():
    found = look(run(stall=0.4, worker=None))
    assert ratios(found)["waiting"] == pytest.approx(0.4)
    assert any("not known" in note for note in found.notes)
    plain = run()
    assert (
        look(msgspec.structs.replace(plain, measurement=msgspec.structs.replace(plain.measurement, stall_ratio=None)))
        is None
    )


def test_a_step_longer_than_alone_is_contention():
    """80 ms alone, 160 ms beside the loader."""
    assert ratios(look(run(), others=(alone(200.0),)))["contention"] == pytest.approx(0.5, abs=0.01)


def test_fixed_costs_of_two_batch_sizes_are_launching():
    """100/s at 16, 160/s at 32: 0.12 of 0.16 s."""
    found = ratios(look(run(), others=(alone(100.0), alone(160.0, 32))))
    assert found["launching"] == pytest.approx(0.75, abs=0.01)


def test_a_late_host_is_no_waiting_for_data():
    assert ratios(look(run(stall=0.4, wait=0.1)))["launching"] == pytest.approx(0.3, abs=0.001)


def test_the_boundary_counts_by_the_epoch():
    """25 s after each 10,000 samples at 100/s: a fifth."""
    assert ratios(look(run(epoch_boundary_s=25.0)))["epoch boundary"] == pytest.approx(0.2)
    assert any("boundary" in note for note in look(run()).notes)


def test_a_boundary_that_was_seen_is_a_part_of_the_waiting():
    """2.5 s after each 1,000 samples at 100/s, a quarter of the time, of the 40 % that the device waited."""
    quick = times(busy_s_per_sample=0.001)
    found = look(run(stall=0.4, epoch_boundary_s=2.5, epoch_samples=1000, worker=quick), sample_count=None)
    assert ratios(found)["epoch boundary"] == pytest.approx(0.25)
    assert ratios(found)["computing"] == pytest.approx(0.6)
    more = run(stall=0.4, epoch_boundary_s=9.0, epoch_samples=1000, worker=quick)  # no more than was waited
    assert ratios(look(more)) == pytest.approx({"epoch boundary": 0.4, "computing": 0.6})
    slow = times(busy_s_per_sample=2 / 125)  # two workers that make 125/s lose a fifth of it to ends, and no more
    starved = look(run(stall=0.4, epoch_boundary_s=9.0, epoch_samples=1000, worker=slow))
    assert ratios(starved)["epoch boundary"] == pytest.approx(0.2)


def test_taking_batches_is_moving_and_no_preparing():
    """Two workers of 5 ms a sample make a batch each 0.04 s of the 0.16 that pass: three quarters are the taking."""
    trial = run(stall=0.5, trace=IDLE | {"mean_main_cores": 0.6}, worker=times(
        busy_s_per_sample=0.005, cpu_s_per_sample=0.005, delayed_s_per_sample=0.0, blocked_s_per_sample=0.0,
        collate_s_per_sample=0.0,
    ))  # fmt: skip
    found = ratios(look(trial, others=(trial, taking(0.009))))
    assert found == pytest.approx({"computing": 0.5, "moving": 0.375, "preparing": 0.125}, abs=0.001)
    assert "moving" not in ratios(look(trial))


def test_bounds_follow_the_ceilings():
    """The loader limits at 100/s, the device does 200/s; of 20 ms a sample 15 are blocked."""
    worker = times(cpu_s_per_sample=0.005, delayed_s_per_sample=0.0, blocked_s_per_sample=0.015)
    found = bounds(look(run(stall=0.5, worker=worker)))
    assert found["decode twice as fast"] == pytest.approx(100 * 0.02 / 0.0175)
    assert found["data in RAM"] == pytest.approx(200.0, rel=0.01)
    assert found["storage twice as fast"] == pytest.approx(100 * 0.02 / 0.0125)
    assert found["a GPU twice as fast"] == pytest.approx(100.0)


def test_a_faster_device_is_bounded_by_the_loader_and_by_launches():
    """Two workers of 10 ms a sample deliver 200/s; a step cannot be shorter than its launches."""
    assert bounds(look(run(worker=times(busy_s_per_sample=0.01))))["a GPU twice as fast"] == pytest.approx(
        200.0, rel=0.01
    )
    launched = look(run(worker=times(busy_s_per_sample=0.001), launch_cpu_s=0.12))
    assert bounds(launched)["a GPU twice as fast"] == pytest.approx(133.3, rel=0.01)


def test_without_workers_a_faster_device_shortens_its_turn():
    """60 ms of loading and 40 ms of computing by turns are 10 batches/s; at half the computing 12.5."""
    by_turns = run(stall=0.6, rate=160.0, settings=Settings(num_workers=0, batch_size=16), worker=None, own=None)
    assert bounds(look(by_turns))["a GPU twice as fast"] == pytest.approx(16 * 12.5, rel=0.01)


def test_without_workers_a_host_that_runs_ahead_still_has_to_load():
    """It loads 60 ms while 40 of computing run: loading alone is the limit, 16.7 batches/s as today."""
    ahead = run(stall=1 / 3, wait=1.0, rate=266.7, settings=Settings(num_workers=0, batch_size=16), worker=None)
    assert bounds(look(ahead))["a GPU twice as fast"] == pytest.approx(266.7, rel=0.01)


def test_uneven_workers_could_deliver_more_to_a_faster_device():
    """Two workers of 8 ms a sample do 250/s on average, though the device waits 30 % of the time at 100/s."""
    uneven = run(stall=0.3, worker=times(busy_s_per_sample=0.008, batch_spread_ratio=0.5))
    assert bounds(look(uneven))["a GPU twice as fast"] == pytest.approx(250.0)


def test_cores_that_are_used_up_bound_in_proportion():
    """Four more of four: twice the rate, and not more than the device."""
    trial = run(stall=0.6, trace=FULL)
    assert bounds(look(trial))["4 more cores"] == pytest.approx(200.0, rel=0.01)
    assert bounds(look(run(stall=0.2, trace=FULL)))["4 more cores"] == pytest.approx(125.0, rel=0.01)


def test_data_in_ram_need_cores_as_well():
    """A sample takes 36 ms of CPU: four cores do 111/s."""
    worker = times(
        busy_s_per_sample=0.072, cpu_s_per_sample=0.036, delayed_s_per_sample=0.0, blocked_s_per_sample=0.036
    )
    trial = run(stall=0.5, worker=worker)
    cost = WorkerCost(cpu_s_per_sample=0.036, times=worker)
    dear = msgspec.structs.replace(trial, measurement=msgspec.structs.replace(trial.measurement, worker=cost))
    assert bounds(look(dear))["data in RAM"] == pytest.approx(4 / 0.036)
