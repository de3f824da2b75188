"""Does the GPU benchmark count, order and judge as it says, and does its kept process outlive what fails in it?"""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import gpu, gpu_batch, gpu_bench, gpu_jitter, gpu_profile, gpu_tuning, gpu_worlds, record
from benchmarks.gpu_process import KeptProcess
from benchmarks.gpu_profile import BATCHES, FAMILIES, Family
from benchmarks.jitter import RULES, Thresholds
from benchmarks.jitter_worlds import BATCH, WORKERS
from loadtune.advice.search import Leg
from loadtune.engine.runner import Runner
from loadtune.monitor.host import read_limits
from loadtune.monitor.nvml import Nvml
from loadtune.records.measurement import Cause, Measurement, Startup, TrialResult, TrialState, Window
from loadtune.records.messages import Sources
from loadtune.records.resources import GpuSample, ResourceTrace
from loadtune.records.settings import DeviceChoice, MeasureOptions, Settings, TrialSpec, WorkloadSpec

STARTUP = Startup(process_s=0.0, build_s=0.0, device_warm_up_s=0.0, first_batch_s=0.0, loader_warm_up_s=0.0)
CEILING, PINNED, OURS = gpu_tuning.CEILING, gpu_tuning.PINNED, gpu_tuning.OURS


def measured(step_s=0.05, stall=0.0, batch_size=16):
    window = Window(started_s=0.0, duration_s=10.0, batches=100, samples=100 * batch_size)
    return Measurement(
        windows=(window,), startup=STARTUP, step_s=step_s, stall_ratio=stall, launch_cpu_s=0.01,
        device_memory_bytes=3 * 2**30, synchronisations=0,
    )  # fmt: skip


def trial_of(utilisation=(), stall=0.0, batch_size=16, step_s=0.05):
    samples = tuple(GpuSample(at_s=1 + place / 6, utilisation_ratio=each) for place, each in enumerate(utilisation))
    trace = ResourceTrace(
        started_monotonic_s=0.0, measuring_s=(1.0, 100.0), gpu=samples, mean_main_cores=0.2, mean_worker_cores=0.1
    )
    found = measured(step_s, stall, batch_size)
    return TrialResult(
        number=1, role="grid", spec_key="0" * 16, state=TrialState.COMPLETE, trace=trace, measurement=found,
        settings=Settings(num_workers=0, batch_size=batch_size), rate_per_s=found.rate_per_s,
    )  # fmt: skip


@pytest.fixture
def bench(tmp_path):
    return gpu_bench.open_bench("test", "cuda", tmp_path, time.monotonic() + 60.0, None, None, None)


@pytest.mark.parametrize("words", [["nothing"], ["profile=0"], ["profile=-1"], ["profile=soon"]])
def test_parts_that_are_none_are_refused(words):
    with pytest.raises(ValueError, match=r"part|seconds|float"):
        gpu.read_parts(words, 10.0)


def test_a_part_has_its_own_seconds_or_the_limit():
    assert gpu.read_parts(["batch", "jitter=70"], 30.0) == {"batch": 30.0, "jitter": 70.0}


def test_what_was_measured_is_there_after_a_restart(bench, tmp_path):
    """Saved with every trial, and kept by keys; another device's rows are not."""
    with bench.noting(variant="a", batch_size=2, device="cuda") as rows:
        rows.append({"quantity": "step", "value": 1.5, "unit": "s", "point": {"batch_size": 2}})
    again = gpu_bench.open_bench("test", "cuda", tmp_path, 0.0, None, None, None)
    assert again.has(variant="a", batch_size=2)
    assert not again.has(variant="a", batch_size=4)
    assert again.record["rows"][0]["point"] == {"batch_size": 2}
    assert "foreign_cpu_cores" in again.record["rows"][0]
    assert not gpu_bench.open_bench("test", "replay", tmp_path, 0.0, None, None, None).record["rows"]
    assert not (record.REPORTS / "gpu_test.json").exists()


def row_of(batch_size, value, **more):
    return {"variant": FAMILIES[0].name, "batch_size": batch_size, "value": value, "quantity": "step", **more}


def test_a_batch_is_left_out_once_a_smaller_one_did_not_fit_or_was_too_slow():
    full = [row_of(64, None, state=TrialState.OUT_OF_MEMORY)]
    assert gpu_profile.is_worth(full, 32)
    assert not gpu_profile.is_worth(full, 64)
    assert not gpu_profile.is_worth(full, 128)
    slow = [row_of(16, 1.0)]
    assert gpu_profile.is_worth(slow, 32)
    assert not gpu_profile.is_worth(slow, 64)
    assert gpu_profile.is_worth([row_of(16, None, state=TrialState.TIMED_OUT)], 64)


@given(st.lists(st.sampled_from(BATCHES), min_size=1, unique=True))
def test_a_profile_holds_what_was_measured_in_order(sizes):
    """Rows of another family, and of trials that failed, are not in it."""
    rows = [row_of(size, size / 100, point={"batch_size": size, "device_s": size / 100}) for size in sizes]
    rows += [row_of(1024, None, state=TrialState.OUT_OF_MEMORY), {**rows[0], "variant": FAMILIES[1].name}]
    profile = gpu_profile.make_profile("H100", FAMILIES[0], rows, 80 * 10**9)
    assert [point.batch_size for point in profile.points] == sorted(sizes)
    assert profile.origin == "measured"
    assert profile.name == "H100, DeepLabv3+ resnet50, 513 px, bf16, channels-last"
    assert gpu_profile.make_profile("H100", Family("resnet101", "fp32"), rows, None) is None


def test_the_copy_of_a_point_is_bytes_by_rate():
    """16 samples of 513 x 513 pixels of 20 bytes: 84.2 MB, at 20 GB/s 4.2 ms. Unknown rate: not recorded."""
    point = gpu_profile.make_point(measured(), 16, 513, 20e9)
    assert point["copy_s"] == pytest.approx(16 * 513**2 * 20 / 20e9)
    assert point["memory_bytes"] == 3 * 2**30
    assert gpu_profile.make_point(measured(), 16, 513, None)["copy_s"] == 0.0


def test_the_estimate_beside_a_step_is_bounded_by_the_host():
    """An H100 has 20 ms to launch in: two samples cannot be quicker, 64 are slower. An unknown card has none."""
    workload = WorkloadSpec(precision="bf16")
    assert gpu_profile.estimate("NVIDIA H100 80GB HBM3", workload, 2) == pytest.approx(0.02)
    assert gpu_profile.estimate("NVIDIA H100 80GB HBM3", workload, 64) > 0.1
    assert gpu_profile.estimate("rehearsal", workload, 64) is None


def batch_row(batch_size, value, low=0.3, high=0.4, said=None, crop_px=513):
    row = {"variant": f"{crop_px} px", "batch_size": batch_size, "value": value, "step_s": 0.1, "said": said}
    return {**row, "utilisation_p5_p95": None if low is None else [low, high], "failure": "device memory"}


def test_the_knee_is_the_smallest_batch_near_the_best_rate():
    rows = [batch_row(2, 50.0), batch_row(16, 190.0), batch_row(32, 197.0), batch_row(64, 200.0), batch_row(128, None)]
    assert gpu_batch.find_knee(rows)["batch_size"] == 16
    assert gpu_batch.find_knee([batch_row(128, None)]) is None
    assert "batch_size=16; a rate of 0.007 at 2 becomes 0.056 (8 times, SGD)" in gpu_batch.tabulate(rows)[-1]


def test_low_and_steady_is_promised_to_be_seen_and_cured():
    seen = [batch_row(2, 50.0, said="low"), batch_row(64, 200.0)]
    assert [each.met for each in gpu_batch.judge(seen)] == [True, True, True]
    unseen = [batch_row(2, 50.0), batch_row(64, 200.0, said="low")]
    assert [each.met for each in gpu_batch.judge(unseen)] == [True, False, False]
    unread = [batch_row(2, 50.0, low=None), batch_row(64, 200.0, low=None)]
    assert [each.met for each in gpu_batch.judge(unread)] == [True, None, None]


def test_the_smallest_batch_is_judged_by_loadtunes_own_rule(bench):
    bench.limits = read_limits()
    low = gpu_batch._judge(bench, trial_of([0.3] * 20, batch_size=2))["said"]
    assert "the batch is small" in low
    assert "Try batch_size=4" in low
    assert gpu_batch._judge(bench, trial_of([0.98] * 20, batch_size=64))["said"] is None


@pytest.mark.parametrize("name", gpu_worlds.PATTERNS)
@pytest.mark.parametrize("step_s", [0.01, 0.3])
def test_a_world_keeps_its_device_as_busy_as_it_says(name, step_s):
    """The loader works while the device does: the longer of both is what a batch takes."""
    pattern = gpu_worlds.PATTERNS[name]
    loader_s = gpu_worlds.sample_s(pattern, step_s) * gpu_worlds.BATCH_SIZE / max(1, pattern.workers)
    kernels_s = step_s if pattern.kernel_period_s is None else pattern.busy_share * step_s
    assert kernels_s / max(step_s, loader_s) == pytest.approx(pattern.busy_share)
    assert (pattern.remedy == WORKERS) == (loader_s > step_s)


def test_worlds_are_found_by_name():
    assert len(gpu_worlds.data_stalled_100000) == gpu_worlds.LENGTH
    assert callable(gpu_worlds.step_launch_30000)
    for name in ("data_unheard_100", "step_launch_", "other_launch_100"):
        with pytest.raises(AttributeError, match="no world"):
            getattr(gpu_worlds, name)


@given(st.integers(1, 10**15), st.integers(1000, 10**6), st.integers(3, 200))
def test_the_drivers_buffer_is_described(first_us, gap_us, count):
    """Evenly stamped samples give their gap and number, whatever the order; a stamp of 0 is an empty slot."""
    stamps = [first_us + place * gap_us for place in range(count)]
    sampling, reason = gpu_jitter.describe_stamps([0, *reversed(stamps)])
    assert reason is None
    assert sampling.depth == count
    assert sampling.period_s == pytest.approx(gap_us / 1e6)
    assert sampling.least_s == pytest.approx(sampling.largest_s)


def test_a_buffer_that_is_empty_is_not_known():
    assert gpu_jitter.describe_stamps([0, 5, 5]) == (None, "the buffer holds 1 samples")


@pytest.mark.parametrize("now", [time.time, time.monotonic])
def test_the_stamps_clock_is_told(now):
    stamps = [round(1e6 * (now() - back / 6)) for back in range(10)]
    assert gpu_jitter.describe_stamps(stamps)[0].clock in {"epoch", "boot", "monotonic"}


def test_rules_are_judged_by_the_remedy(bench):
    """Stalled every step at 0.1 s: NVML sees it half busy and steady, so that it looks like a small batch."""
    bench.limits = read_limits()
    trial = trial_of([0.5] * 30, stall=0.5, step_s=0.05)
    rows = gpu_jitter.judge_trial(bench, trial, "stalled", 0.1, Thresholds(jitter=0.13, low=0.9))
    by_rule = {row["quantity"]: row for row in rows}
    assert list(by_rule) == list(RULES)
    assert [by_rule[rule]["value"] for rule in RULES] == [0.0, 0.0, 1.0]
    assert by_rule["article"]["said"] == by_rule["SageMaker"]["said"] == BATCH
    assert by_rule["loadtune"]["busy_by_events"] == pytest.approx(0.5)


def test_without_readings_no_rule_is_judged(bench):
    bench.limits = read_limits()
    rows = gpu_jitter.judge_trial(bench, trial_of([0.5] * 5), "stalled", 0.1, Thresholds(jitter=0.13, low=0.9))
    assert [row["value"] for row in rows] == [None] * len(RULES)
    assert "not told" in gpu_jitter.tabulate([{**row, "variant": "stalled"} for row in rows])[-1]


def test_a_replayed_step_says_nothing_of_launches(bench):
    bench.limits, bench.device = read_limits(), "replay"
    rows = gpu_jitter.judge_trial(bench, trial_of([1.0] * 30), "launch", 0.1, Thresholds(jitter=0.13, low=0.9))
    assert [row["value"] for row in rows] == [None] * len(RULES)


def test_the_articles_thresholds_are_those_of_the_nearest_window():
    saved = json.loads((record.REPORTS / "jitter.json").read_text())["rows"]
    wanted = [row["value"] for row in saved if row["variant"] == "article, 1 s, buffered"]
    found = gpu_jitter.read_thresholds(0.9)
    assert [found.jitter, found.low] == wanted
    assert gpu_jitter.read_thresholds(0.02) == gpu_jitter.read_thresholds(1 / 6)


def tuning_row(variant, value, **more):
    return {"variant": variant, "value": value, "failure": "killed", **more}


def test_answers_are_judged_by_ceiling_pinned_and_none():
    rows = [tuning_row(CEILING, 200.0), tuning_row("num_workers=0", 10.0), tuning_row(PINNED, 40.0)]
    rows += [tuning_row("grid, num_workers=8", 80.0), tuning_row("grid, num_workers=32", None)]
    assert gpu_tuning.shares(rows)["grid, num_workers=8"] == (0.4, 2.0, 8.0)
    assert gpu_tuning.judge(rows) == []
    rows.append(tuning_row(OURS, 78.0, over_pinned=[1.9, 1.8, 2.0], settings="num_workers=7", verdict="FASTER"))
    near, duel, claim = gpu_tuning.judge(rows)
    assert (near.value, near.met) == (pytest.approx(0.975), True)
    assert (duel.value, duel.met) == (1.9, True)
    assert (claim.value, claim.met) == (pytest.approx(7.8), True)
    assert "duel 1.9x [1.8 2], FASTER" in gpu_tuning.tabulate(rows)[-1]


def test_no_duel_and_no_rival_are_not_measured():
    rows = [tuning_row(CEILING, 200.0), tuning_row(PINNED, 40.0), tuning_row(OURS, 30.0, over_pinned=[None] * 3)]
    assert [each.met for each in gpu_tuning.judge(rows)] == [False, None, None]
    assert gpu_tuning.shares([tuning_row(PINNED, 40.0)]) == {}


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_settings_are_what_their_names_say(cores):
    found = {**gpu_tuning.rivals(cores), **gpu_tuning.grid(cores)}
    assert found[PINNED] == Settings(num_workers=4, batch_size=gpu_tuning.BATCH, pin_memory=True)
    assert found["Lightning's rule, cores - 1"].num_workers == max(1, cores - 1)
    for name, settings in gpu_tuning.grid(cores).items():
        assert f"num_workers={settings.num_workers}" in name
        assert settings.num_workers >= 1
    assert gpu_tuning.describe(found[PINNED]) == "num_workers=4, pin_memory=True"


def test_time_for_our_own_answer_is_kept_free():
    """The two that ours is judged by come first; the grid has what is left."""
    names = [*gpu_tuning.rivals(16), *gpu_tuning.grid(16)]
    first = [name for name in names if gpu_tuning.needed_s(name, has_ours=False) < gpu_tuning.PROBE_COST_S]
    assert first == ["num_workers=0", PINNED]
    assert {gpu_tuning.needed_s(name, has_ours=True) for name in names} == {gpu_tuning.CELL_COST_S}


def test_few_photographs_make_a_long_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_tuning, "SAMPLES", 50)
    for kind, ending in (("images", "jpg"), ("masks", "png")):
        (tmp_path / kind).mkdir()
        for name in ("a", "b", "c"):
            (tmp_path / kind / f"{name}.{ending}").write_bytes(name.encode())
        (tmp_path / kind / f"again-a.{ending}").hardlink_to(tmp_path / kind / f"a.{ending}")
    with gpu_tuning.repeated(tmp_path) as folder:
        images, masks = (sorted((folder / kind).iterdir()) for kind in ("images", "masks"))
        assert len(images) >= gpu_tuning.SAMPLES
        assert [each.stem for each in images] == [each.stem for each in masks]
        assert images[-1].read_bytes() == b"c"
        assert sum(not each.is_symlink() for each in images) == 3  # the same file under two names is one
    assert not folder.exists()


def test_the_kept_process_outlives_a_failure():
    """A trial that raises leaves it alive; one that kills it is told as a crash."""
    nvml = Nvml(None, "none in this test")
    with KeptProcess() as process:
        runner = Runner(process, nvml, read_limits(), Sources(), 0.0)

        def run(target=None, batch_size=16):
            spec = TrialSpec(
                settings=Settings(num_workers=0, batch_size=batch_size),
                device=DeviceChoice(kind="replay", profile=gpu_bench.REHEARSAL),
                workload=WorkloadSpec(dataset_target=target),
                feed="resident" if target is None else "loader",
                measure=MeasureOptions(window_min_s=0.1, windows_min=1, measure_s=0.1),
            )
            leg = Leg(settings=spec.settings, role="ceiling", feed=spec.feed)
            return runner.run(spec, leg, 1, time.monotonic() + 60.0)

        assert run(batch_size=1024).failure.cause is Cause.DEVICE_MEMORY
        assert run("benchmarks.gpu_worlds:data_unheard_1").failure.cause is Cause.USER_CODE
        assert run().state is TrialState.COMPLETE
        assert process.starts == 1
        assert run("os:abort").state is TrialState.CRASHED


@pytest.mark.parametrize(("name", "kernels", "kernel_s"), [("healthy", 150, 0.0002), ("launch", 5, 0.003)])
def test_a_step_launches_kernels_of_the_length_it_says(name, kernels, kernel_s, monkeypatch):
    """At a clock of 2 GHz, told by the calibration."""
    launched = []
    monkeypatch.setattr(gpu_worlds, "measure_cycles_per_s", lambda: 2e9)
    monkeypatch.setattr(gpu_worlds.torch.cuda, "_sleep", launched.append)
    gpu_worlds.make_step(gpu_worlds.PATTERNS[name], 0.03)(None)
    assert launched == [round(2e9 * kernel_s)] * kernels
