"""What does a report say of larger batches where the noise scale was handed over?"""

import pytest

from loadtune.advice.case import Case
from loadtune.advice.growth import LOWER_BOUND, noise_scale
from loadtune.advice.rules import find
from loadtune.records.resources import GpuSample, HostLimits, ResourceTrace
from loadtune.records.settings import Settings
from loadtune.schedule.batch_growth import NoiseScaleEstimate
from tests.fake_runner import complete_result

LIMITS = HostLimits(usable_cores=4.0, affinity_cores=4, memory_limit_bytes=10**10, memory_available_bytes=10**10)


def measured(samples: float | None = 500.0, **fields: object) -> NoiseScaleEstimate:
    given = {"low": 400.0, "high": 700.0, "steps": 100, "is_lower_bound": False} | fields
    return NoiseScaleEstimate(samples=samples, **given)


def case(told: NoiseScaleEstimate | None, batch_size: int = 16, **fields: object) -> Case:
    samples = tuple(GpuSample(at_s=at / 6, utilisation_ratio=0.5) for at in range(30))
    trial = complete_result(
        Settings(num_workers=2, batch_size=batch_size), 100.0, trace=ResourceTrace(started_monotonic_s=0.0, gpu=samples)
    )
    return Case(chosen=trial, baseline=None, limits=LIMITS, device="replay", noise_scale=told, **fields)


def test_it_says_how_far_with_the_interval_and_the_rate_there():
    """The limit is the low end, 400; there SGD's rate grows by kappa (B + Bn) / (kappa B + Bn)."""
    found = noise_scale(case(measured()))
    assert found.title == "The batch may grow to 400 samples a step"
    assert "500 samples [400 700]" in found.detail
    assert f"multiplied by {25 * 516 / 900:.3g}" in found.detail
    assert f"only if samples/s grow by more than {800 / 416:.2f} times" in found.detail
    assert "lower bound" not in found.detail
    evidence = {each.name: each.value for each in found.evidence}
    assert (evidence["noise_scale"], evidence["noise_scale_low"], evidence["noise_scale_high"]) == (500, 400, 700)
    assert evidence["samples_ratio"] == pytest.approx(800 / 416)
    assert (found.severity, found.action) == ("info", None)


def test_without_a_noise_scale_nothing_is_said():
    assert noise_scale(case(None)) is None
    assert "noise-scale" not in {each.rule for each in find(case(None))}
    assert "noise-scale" in {each.rule for each in find(case(measured()))}


@pytest.mark.parametrize("notes", [(), ("It is a lower bound only, it said.",)])
def test_an_untrained_network_gives_a_lower_bound_and_it_says_so_once(notes):
    found = noise_scale(case(measured(is_lower_bound=True, notes=notes)))
    assert found.title == "The batch may grow to at least 400 samples a step"
    assert found.detail.count("lower bound only") == 1
    assert f"at most {800 / 416:.2f} times the samples" in found.detail
    assert "only if" not in found.detail
    assert (LOWER_BOUND in found.detail) == (not notes)
    assert "again" in found.action


@pytest.mark.parametrize(("is_lower_bound", "said"), [(False, "do not enlarge it"), (True, "measured so far")])
def test_a_batch_at_the_noise_scale_is_not_to_grow_unless_it_is_a_lower_bound(is_lower_bound, said):
    found = noise_scale(case(measured(12.0, low=10.0, high=15.0, is_lower_bound=is_lower_bound)))
    text = f"{found.title} {found.detail}"
    assert said in text
    assert ("do not enlarge" in text) != is_lower_bound


def test_a_noise_scale_that_could_not_be_told_gives_its_reason():
    told = NoiseScaleEstimate(samples=None, reason="3 steps, 8 needed")
    found = noise_scale(case(told))
    assert "3 steps, 8 needed" in found.detail
    assert "not known" in found.title


def test_a_low_end_without_an_estimate_is_at_least():
    told = NoiseScaleEstimate(samples=None, low=300.0, reason="noise hides the mean gradient", is_lower_bound=False)
    assert noise_scale(case(told)).title == "The batch may grow to at least 300 samples a step"


def test_a_bare_number_has_no_interval():
    assert "no interval" in noise_scale(case(measured(low=None, high=None))).detail


def test_all_ranks_count():
    """16 samples on each of 32 ranks are beyond 400."""
    found = noise_scale(case(measured(), world_size=32))
    assert "512 samples is at or beyond" in found.title
    assert "all 32 ranks" in found.detail


def finding(rule: str, told: NoiseScaleEstimate | None, stall: float):
    import msgspec

    made = case(told)
    measurement = msgspec.structs.replace(made.chosen.measurement, stall_ratio=stall)
    trial = msgspec.structs.replace(made.chosen, measurement=measurement)
    rules = {each.rule: each for each in find(Case(chosen=trial, baseline=None, limits=LIMITS, device="replay",
                                                   noise_scale=told))}  # fmt: skip
    return rules[rule]


def test_the_advice_to_double_the_batch_says_from_when_it_pays():
    """At a noise scale of 48 two samples of 32 teach as much as 1.6 of 16: (32 + 48) / (16 + 48) = 1.25."""
    assert "pays from" not in finding("low-steady-gpu", None, 0.01).action
    action = finding("low-steady-gpu", measured(48.0, low=40.0, high=60.0), 0.01).action
    assert "pays from 1.25 times the samples/s" in action
    assert f"{2 * 64 / 80:.3g} times the learning rate" in action


def test_at_the_noise_scale_the_advice_is_not_to_double_the_batch():
    """Its interval begins below the batch of 16; a lower bound forbids nothing."""
    action = finding("low-steady-gpu", measured(16.0, low=12.0, high=20.0), 0.01).action
    assert "batch_size" not in action
    assert "a larger batch is no gain" in action
    bound = measured(16.0, low=12.0, high=20.0, is_lower_bound=True)
    assert "batch_size=32" in finding("low-steady-gpu", bound, 0.01).action


def test_a_larger_batch_is_not_called_a_help_beyond_the_noise_scale():
    assert "batch size helps" in finding("device-bound", None, 0.01).action
    assert "batch size" not in finding("device-bound", measured(12.0, low=10.0, high=15.0), 0.01).action
    bound = measured(12.0, low=10.0, high=15.0, is_lower_bound=True)
    assert "batch size helps" in finding("device-bound", bound, 0.01).action
