"""Each rule fires on its own evidence, and is silent or overruled on its neighbour's."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.advice.case import Case
from loadtune.advice.rules import find
from loadtune.records.resources import GpuSample, GpuState, GpuUse, HostLimits, ResourceTrace, Throttled
from loadtune.records.settings import Settings
from tests.fake_runner import complete_result

LIMITS = HostLimits(usable_cores=4.0, affinity_cores=4, memory_limit_bytes=10**10, memory_available_bytes=10**10)
LATE_HEAT = tuple(GpuState(at_s=9.0 + at, throttle_reasons=("hw_thermal",)) for at in range(5))
STEADY_LOW, STEADY_HIGH, JITTERY = [0.5] * 30, [0.95] * 30, [0.0, 0.9] * 15


def trial(
    *,
    stall: float | None = 0.3,
    num_workers: int = 2,
    batch_size: int = 16,
    utilisation=(),
    boundary_s: float | None = None,
    spread: float = 0.0,
    cache: str = "warm",
    **trace: object,
):
    """A complete trial with exactly the evidence named."""
    settings = Settings(num_workers=num_workers, batch_size=batch_size)
    plain = complete_result(settings, 100.0)
    measurement = msgspec.structs.replace(plain.measurement, stall_ratio=stall, epoch_boundary_s=boundary_s)
    samples = tuple(GpuSample(at_s=at / 6, utilisation_ratio=each) for at, each in enumerate(utilisation))
    return complete_result(
        settings,
        100.0,
        spread=spread,
        measurement=measurement,
        cache=cache,
        trace=ResourceTrace(started_monotonic_s=0.0, gpu=samples, **trace),
    )


def rules(chosen, baseline=None, **fields: object) -> dict[str, object]:
    """Findings by rule."""
    options = {"limits": LIMITS, "device": "replay", "sample_count": 1000} | fields
    return {each.rule: each for each in find(Case(chosen=chosen, baseline=baseline, **options))}


def test_device_bound_up_to_five_per_cent():
    """At 5 % the loader is fine; above it, it is not."""
    assert "device-bound" in rules(trial(stall=0.05))
    assert "device-bound" not in rules(trial(stall=0.051))


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ({"mean_worker_cores": 1.0, "mean_main_cores": 0.2}, "loader-bound"),
        ({"mean_worker_cores": 3.6, "mean_main_cores": 0.2}, "cpu-saturated"),
        ({"mean_worker_cores": 3.1, "mean_main_cores": 0.7}, "cpu-saturated"),
        ({"mean_worker_cores": 0.3, "mean_main_cores": 0.2, "miss_ratio": 0.9}, "storage-bound"),
        ({"mean_worker_cores": 3.8, "mean_main_cores": 0.2, "miss_ratio": 0.9}, "cpu-saturated"),
    ],
)
def test_stall_has_one_cause(evidence, expected):
    """Idle cores, used-up cores, or storage: exactly one of the three is named, and none without a stall."""
    causes = {"loader-bound", "cpu-saturated", "storage-bound"}
    assert causes & rules(trial(stall=0.3, **evidence)).keys() == {expected}
    assert not causes & rules(trial(stall=0.01, **evidence)).keys()


def test_severe_stall_is_a_warning():
    """From 20 % on."""
    found = [
        rules(trial(stall=each, mean_worker_cores=1.0, mean_main_cores=0.2))["loader-bound"].severity
        for each in (0.1, 0.3)
    ]
    assert found == ["advice", "warning"]


def test_main_process_bound_needs_a_busy_main_process_beside_workers():
    """At 0 workers, or on device cpu, a busy main process is no news."""
    busy = {"mean_worker_cores": 1.0, "mean_main_cores": 0.97}
    assert "main-process-bound" in rules(trial(**busy))
    assert "main-process-bound" not in rules(trial(**busy, num_workers=0))
    assert "main-process-bound" not in rules(trial(**busy), device="cpu")


def test_jittery_gpu_is_confirmed_by_a_stall():
    """More workers, and how many, because the device really waited."""
    found = rules(trial(stall=0.01, num_workers=8), trial(stall=0.4, utilisation=JITTERY))["jittery-gpu"]
    assert (found.severity, found.action) == ("advice", "Use num_workers=8.")


def test_jittery_gpu_is_overruled_without_a_stall():
    """Utilisation fluctuates, the steps do not wait: no workers are asked for."""
    found = rules(trial(stall=0.01, utilisation=JITTERY))["jittery-gpu"]
    assert (found.severity, found.action) == ("info", None)
    assert "overrule" in found.detail


def test_low_steady_gpu_asks_for_a_larger_batch_with_its_learning_rate():
    """No stall: twice the batch, twice the rate for SGD, its root for Adam."""
    low = trial(stall=0.01, utilisation=STEADY_LOW)
    assert rules(low)["low-steady-gpu"].action == "Try batch_size=32 with 2 times the learning rate."
    assert "1.41 times" in rules(low, optimizer="adamw")["low-steady-gpu"].action


def test_low_steady_gpu_is_overruled_by_a_stall_at_every_step():
    """NVML cannot tell the two apart; the step decomposition can."""
    found = rules(trial(stall=0.01, num_workers=8), trial(stall=0.5, utilisation=STEADY_LOW))["low-steady-gpu"]
    assert "batch_size=32" not in found.action
    assert found.action == "Use num_workers=8."


@pytest.mark.parametrize("utilisation", [STEADY_HIGH, STEADY_LOW[:5], []])
def test_busy_or_unknown_utilisation_says_nothing(utilisation):
    """A busy device, and too few samples for a percentile."""
    assert not {"jittery-gpu", "low-steady-gpu"} & rules(trial(utilisation=utilisation)).keys()


@pytest.mark.parametrize("utilisation", [JITTERY, STEADY_LOW])
def test_unknown_stall_confirms_nothing(utilisation):
    """Without the decomposition a rule of thumb is information, never advice."""
    found = rules(trial(stall=None, utilisation=utilisation))
    severities = {each.severity for name, each in found.items() if name.endswith("gpu")}
    assert severities == {"info"}


def test_epoch_boundary_counts_for_the_real_epoch():
    """1 s of an epoch of 10 s is told, of 1000 s is not; persistent_workers only where there are workers."""
    assert rules(trial(boundary_s=1.0), sample_count=1000)["epoch-boundary"].action is not None
    assert rules(trial(boundary_s=1.0, num_workers=0), sample_count=1000)["epoch-boundary"].action is None
    assert "epoch-boundary" not in rules(trial(boundary_s=1.0), sample_count=100_000)


@pytest.mark.parametrize(
    ("boundary_s", "stall", "share"),
    [(0.3, 0.3, 0.15), (0.09, 0.3, None), (9.0, 0.3, 0.3), (0.3, 0.1, 0.1), (0.3, 0.04, None), (9.0, None, 1.0)],
)
def test_an_epoch_that_the_data_set_ends_by_itself_is_counted_as_it_came(boundary_s, stall, share):
    """Nobody knows its length beforehand: 200 samples at 100/s, its ends included, are 2 s.

    What of its end queued steps hid, the device did not wait for.
    """
    seen = trial(boundary_s=boundary_s, stall=stall)
    seen = msgspec.structs.replace(seen, measurement=msgspec.structs.replace(seen.measurement, epoch_samples=200))
    for count in (None, 10**6):  # what was seen comes before what was said
        found = rules(seen, sample_count=count).get("epoch-boundary")
        assert (found is None) == (share is None)
        if found is not None:
            assert found.evidence[0].value == pytest.approx(share)
            assert "An epoch of 200 samples" in found.detail
    assert "epoch-boundary" not in rules(trial(boundary_s=boundary_s), sample_count=None)


def test_without_its_ends_an_epoch_that_was_seen_is_faster_by_them():
    """15 % of 100/s: 100 samples take 0.85 s instead of 1."""
    seen = trial(boundary_s=0.3)
    seen = msgspec.structs.replace(seen, measurement=msgspec.structs.replace(seen.measurement, epoch_samples=200))
    assert rules(seen)["epoch-boundary"].worth_per_s == pytest.approx(100 / 0.85 - 100)


@pytest.mark.parametrize(("spread", "severity"), [(0.05, None), (0.15, "info"), (0.4, "warning")])
def test_noise_has_two_levels(spread, severity):
    """10 % and 25 %, as torch.utils.benchmark has them."""
    found = rules(trial(spread=spread)).get("noisy")
    assert (found.severity if found else None) == severity


def test_foreign_load_and_steal_are_told_of_either_trial():
    """A tenth of four cores, summed, in the baseline's trial too."""
    disturbed = trial(mean_foreign_cores=0.3, mean_steal_cores=0.2)
    assert rules(trial(), disturbed)["foreign-load"].severity == "warning"
    assert "foreign-load" not in rules(trial(mean_foreign_cores=0.3), trial())


def test_small_batch_is_told_below_eight():
    """BatchNorm's floor."""
    assert "small-batch-norm" in rules(trial(batch_size=7))
    assert "small-batch-norm" not in rules(trial(batch_size=8))


def test_other_augmentations_are_told_where_the_workers_change():
    assert "other-streams" in rules(trial(num_workers=4), trial(num_workers=2))
    assert "other-streams" not in rules(trial(num_workers=2, batch_size=32), trial(num_workers=2))
    assert "other-streams" not in rules(trial())


def test_warm_cache_is_told_where_it_was_warm():
    """A cold measurement needs no such notice."""
    for cache in ("warm", "streaming", "cold"):
        assert "page-cache" in rules(trial(miss_ratio=0.3, cache=cache))
    assert "page-cache" not in rules(trial(miss_ratio=None))


@given(
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 8),
    st.none() | st.floats(0, 1),
    st.sampled_from([STEADY_LOW, STEADY_HIGH, JITTERY, []]),
)
def test_findings_are_ranked_and_show_their_numbers(stall, cores, missed, utilisation):
    """Causes by their worth, then remarks; each has evidence; device-bound and a loader's cause exclude each other."""
    chosen = trial(stall=stall, mean_worker_cores=cores, miss_ratio=missed, utilisation=utilisation, spread=0.3)
    found = find(Case(chosen=chosen, baseline=None, limits=LIMITS, device="cuda"))
    remarks = {"jittery-gpu", "low-steady-gpu", "noisy", "small-batch-norm", "page-cache", "other-streams"}
    are_remarks = [each.rule in remarks for each in found]
    assert are_remarks == sorted(are_remarks)
    worths = [each.worth_per_s or 0.0 for each in found if each.rule not in remarks]
    assert worths == sorted(worths, reverse=True)
    assert all(each.evidence for each in found)
    names = {each.rule for each in found}
    assert not ("device-bound" in names and names & {"loader-bound", "cpu-saturated", "storage-bound"})


def test_nothing_known_accuses_nobody():
    """A trial without trace or decomposition gives no cause."""
    plain = complete_result(Settings(num_workers=2, batch_size=16), 100.0)
    assert rules(plain) == {}


def test_epochs_too_short_for_their_workers_are_a_warning():
    """Where the baseline's whole epoch is shorter, the steady state alone would mislead."""
    chosen = trial(stall=0.0, num_workers=2, boundary_s=2.0)
    short = rules(chosen, trial(stall=0.3, num_workers=0, boundary_s=0.0), sample_count=100)["epoch-boundary"]
    assert (short.severity, short.action) == ("warning", "Set persistent_workers=True.")
    assert "it takes 1 s in all" in short.detail
    alone = rules(chosen, None, sample_count=100)["epoch-boundary"]
    assert alone.severity == "advice"


@pytest.mark.parametrize(
    ("evidence", "is_told"),
    [
        ({"gpu_use": GpuUse(throttled=(Throttled(cause="thermal", ratio=0.06),))}, True),
        ({"gpu_use": GpuUse(throttled=(Throttled(cause="thermal", ratio=0.05),))}, False),
        ({"gpu_use": GpuUse(throttled=(Throttled(cause="power_cap", ratio=0.9),))}, False),
        ({"gpu_use": GpuUse()}, False),
        ({"gpu_states": tuple(GpuState(at_s=at, throttle_reasons=("hw_thermal",)) for at in range(5))}, True),
        ({"gpu_states": tuple(GpuState(at_s=at, throttle_reasons=("sw_power_cap", "idle")) for at in range(5))}, False),
        ({"gpu_states": LATE_HEAT, "measuring_s": (0.0, 5.0)}, False),
        ({"gpu_states": LATE_HEAT, "measuring_s": (0.0, 20.0)}, True),
        ({"gpu_states": (GpuState(at_s=1.0),) * 5}, False),
        ({}, False),
    ],
)
def test_heat_is_told_from_a_power_cap(evidence, is_told):
    """By the counters, or by looks while measuring; without either nothing is said."""
    assert ("throttled-gpu" in rules(trial(**evidence))) == is_told


@pytest.mark.parametrize(
    ("use", "severity"),
    [
        (GpuUse(other_processes=1, other_sm_ratio=0.2), "warning"),
        (GpuUse(other_sm_ratio=0.051), "warning"),
        (GpuUse(other_processes=2, other_sm_ratio=0.0), "info"),
        (GpuUse(other_processes=2), "info"),
        (GpuUse(other_processes=0, other_sm_ratio=0.05), None),
        (GpuUse(), None),
    ],
)
def test_a_gpu_that_others_use_is_told(use, severity):
    """A warning where they run kernels, a remark where they only hold memory."""
    found = rules(trial(), trial(gpu_use=use)).get("shared-gpu")
    assert (None if found is None else found.severity) == severity
