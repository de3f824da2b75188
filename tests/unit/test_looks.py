"""What a rule knows from several looks, and what it says where a reading is missing."""

import msgspec
import pytest

from loadtune.advice.case import Case, launch_s
from loadtune.advice.growth import ask_for_twice, instead_of_twice
from loadtune.records.measurement import Cause, Failure, TrialState
from loadtune.records.resources import GpuSample, GpuState, GpuUse, Unavailable
from loadtune.records.settings import Settings
from tests.unit.test_more_rules import IDLE, LIMITS, alone, rules, run, times


def seen(levels, **changes):
    """A trial whose GPU utilisation NVML kept so, each 0.2 s."""
    samples = tuple(GpuSample(at_s=place / 5, utilisation_ratio=level) for place, level in enumerate(levels))
    return run(trace=IDLE | {"gpu": samples}, **changes)


def test_utilisation_is_that_of_all_looks_at_a_setting():
    """One look of a guided search is too short for percentiles; of the device alone or other workers none counts."""
    chosen, again = seen([0.0, 0.9] * 4, stall=0.3), seen([0.0, 0.9] * 4, stall=0.3, number=2)
    other = msgspec.structs.replace(again, settings=Settings(num_workers=4, batch_size=16))
    resident = msgspec.structs.replace(again, feed="resident")
    assert "jittery-gpu" not in rules(chosen, others=(chosen, other, resident))
    assert "jittery-gpu" in rules(chosen, others=(chosen, again, other, resident))


def test_low_utilisation_alone_is_undecided():
    """A step that waits for the device looks the same: two batch sizes or the host's launches tell."""
    low = [0.5] * 30
    for waits in (None, 1):
        told = rules(seen(low, synchronisations=waits))["low-steady-gpu"]
        assert (told.between, told.confidence) == (("launch-bound", "synchronising-step"), "low")
        assert "may be" in told.title
    assert rules(seen(low, synchronisations=0))["low-steady-gpu"].between == ()
    launching = rules(seen(low, launch_cpu_s=0.15))["low-steady-gpu"]
    assert (launching.between, launching.confidence) == ((), "medium")
    sized = rules(seen(low), others=(alone(100.0), alone(160.0, 32)))["low-steady-gpu"]
    assert (sized.between, sized.confidence) == ((), "high")


def test_launching_takes_no_longer_than_where_nobody_was_in_the_way():
    """A host that waits for CUDA spins; on an H100 a step took it 18 ms with resident batches and 57 in the loop."""
    beside, resident = run(launch_cpu_s=0.15), alone(100.0, launch_cpu_s=0.02)
    case = Case(chosen=beside, baseline=None, limits=LIMITS, device="cuda", others=(beside, resident))
    assert launch_s(case, beside) == 0.02
    assert "launch-bound" in rules(beside)
    assert "launch-bound" not in rules(beside, others=(beside, resident))
    larger = msgspec.structs.replace(resident, settings=Settings(num_workers=0, batch_size=32))
    case = Case(chosen=beside, baseline=None, limits=LIMITS, device="cuda", others=(larger,))
    assert launch_s(case, beside) == 0.15


def test_a_step_that_waits_for_the_device_tells_nothing_of_launching():
    """CUDA spins while it waits: a batch that is called too small for that would be grown in vain."""
    waiting = run(launch_cpu_s=0.15, synchronisations=1, gap=0.2)
    assert "launch-bound" not in rules(waiting)
    assert "synchronising-step" in rules(waiting)


def test_misses_that_were_not_read_are_not_none():
    """Nothing is said of this machine's disk, and the finding says why."""
    blocked = times(cpu_s_per_sample=0.001, blocked_s_per_sample=0.018)
    more = run(rate=101.0, settings=Settings(num_workers=4, batch_size=16))
    told = (Unavailable(reading="miss_ratio", reason="/proc/<pid>/io: Permission denied"),)
    unread = rules(run(stall=0.5, worker=blocked, trace=IDLE | {"unavailable": told}), others=(more,))["storage-bound"]
    assert "miss_ratio" not in {each.name for each in unread.evidence}
    assert "Permission denied" in unread.detail
    assert "disk" not in unread.title
    assert unread.confidence == "low"
    warm = rules(run(stall=0.5, worker=blocked, trace=IDLE | {"miss_ratio": 0.0}), others=(more,))["storage-bound"]
    assert "not for this machine's disk" in warm.title
    assert {each.name: each.value for each in warm.evidence}["miss_ratio"] == 0.0


def test_one_look_at_hot_clocks_is_not_half_of_the_time():
    """Looks at all trials count, those while measuring; where a counter tells it, none of them does."""

    def looked(*reasons, number=1):
        states = tuple(GpuState(at_s=float(place), throttle_reasons=each) for place, each in enumerate(reasons))
        return run(trace=IDLE | {"gpu_states": states, "measuring_s": (0.0, 9.0)}, number=number)

    hot, cool = ("sw_thermal",), ()
    assert "throttled-gpu" not in rules(looked(hot, cool))
    often = rules(looked(hot, cool), others=(looked(hot, cool, cool, number=2),))["throttled-gpu"]
    assert "40%" in often.title
    before = msgspec.structs.replace(looked(hot, hot, cool, cool, cool, cool, cool).trace, measuring_s=(1.5, 9.0))
    assert "throttled-gpu" not in rules(msgspec.structs.replace(run(), trace=before))
    cold = msgspec.structs.replace(looked(*[hot] * 5).trace, gpu_use=GpuUse(throttled=()))
    assert "throttled-gpu" not in rules(msgspec.structs.replace(run(), trace=cold))


@pytest.mark.parametrize(
    ("ratio", "names"), [(None, ["other_processes"]), (0.2, ["other_processes", "other_sm_ratio"])]
)
def test_what_others_computed_is_told_where_it_was_read(ratio, names):
    use = GpuUse(other_processes=1, other_sm_ratio=ratio)
    assert [each.name for each in rules(run(trace=IDLE | {"gpu_use": use}))["shared-gpu"].evidence] == names


def test_a_batch_that_ran_out_of_memory_is_not_asked_for():
    own = run(settings=Settings(num_workers=2, batch_size=16))

    def failed(size, cause=Cause.DEVICE_MEMORY):
        return msgspec.structs.replace(
            run(settings=Settings(num_workers=2, batch_size=size), number=2),
            state=TrialState.OUT_OF_MEMORY,
            measurement=None,
            rate_per_s=None,
            failure=Failure(cause=cause, message="out of memory"),
        )

    def case(*others):
        return Case(chosen=own, baseline=None, limits=LIMITS, device="cuda", others=others)

    assert ask_for_twice(case(failed(32)), own.settings) is None
    assert "batch_size=24 ran out" in instead_of_twice(case(failed(24), failed(32)), own.settings)
    for held in (case(), case(failed(64)), case(failed(32, Cause.SHARED_MEMORY))):
        assert ask_for_twice(held, own.settings) == "Try batch_size=32 with 2 times the learning rate"
    low = rules(seen([0.5] * 30), others=(failed(32),))["low-steady-gpu"]
    assert "torch.compile" in low.action
    assert "batch_size=32" not in low.confirm


@pytest.mark.parametrize(
    ("rate", "count", "asked"),
    [
        (100.0, 10**6, "Try num_workers=5: so many make what the device takes"),
        (1000.0, 10**6, "Try num_workers=6: so many use up the cores"),
        (100.0, 48, "Try num_workers=3: "),
        (100.0, 30, "Try more workers (--num-workers)."),
    ],
)
def test_workers_are_asked_for_by_what_the_device_takes(rate, count, asked):
    """20 ms a sample for 200 a second and 15 % more are five; four cores compute 222 a second, at 18 ms each."""
    stalling = run(stall=0.5, rate=rate)
    assert rules(stalling, sample_count=count)["loader-bound"].action.startswith(asked)
    unknown = run(stall=0.5, rate=rate, worker=None)
    assert rules(unknown, sample_count=count)["loader-bound"].action == "Try more workers (--num-workers)."
