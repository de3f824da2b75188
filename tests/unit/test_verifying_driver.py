"""What `loadtune verify` says of the driver's sampling and of the GPU's clock: scripted drivers and made-up trials."""

from types import SimpleNamespace

import msgspec
import pytest

from loadtune.monitor.nvml import Nvml
from loadtune.records.resources import GpuState
from loadtune.records.settings import Settings
from loadtune.records.verification import Figure, Outcome
from loadtune.verifying.bench import Bench
from loadtune.verifying.driver import check_clocks, check_sampling
from loadtune.verifying.replaying import find_cells, judge_cells
from tests.examples import complete, settings
from tests.fake_driver import NOW_S, UUID, Clock, FakeDriver, make_reader, us


def bench(nvml=None, trials=(), uuid=UUID, kind="cuda"):
    run = SimpleNamespace(trials=list(trials), plan=SimpleNamespace(device=SimpleNamespace(kind=kind)))
    trial = SimpleNamespace(measurement=None if uuid is None else SimpleNamespace(device_uuid=uuid))
    return Bench(run=run, launcher=None, nvml=nvml, trial=trial, is_quick=False)


def ring(period_s, count, newest_s=NOW_S + 50):
    return [(us(newest_s - place * period_s), 50) for place in reversed(range(count))]


def sampling_of(driver, clock):
    """What a reader on hand-moved clocks says."""
    nvml = SimpleNamespace(device=lambda uuid: make_reader(driver, clock), reason=None, refusal=None)
    return check_sampling(bench(nvml))


@pytest.mark.parametrize(
    ("period_s", "count", "outcome", "told"),
    [
        (0.2, 100, Outcome.HOLDS, "each 0.200 s, 100 in the ring"),
        (1.0, 20, Outcome.HOLDS, "boot clock"),
        (2.0, 20, Outcome.FAILS, "too far apart"),
        (0.2, 6, Outcome.FAILS, "the ring is short"),
        (0.2, 1, Outcome.UNKNOWN, "fewer than two samples"),
    ],
)
def test_the_driver_s_sampling_is_told_and_judged(period_s, count, outcome, told):
    """Period, depth and clock come from the stamps in its ring alone."""
    driver, clock = FakeDriver(), Clock()
    driver.ring = ring(period_s, count)
    check = sampling_of(driver, clock)
    assert check.outcome is outcome
    assert told in f"{check.measured} {check.reason}"


def test_stamps_on_an_unknown_clock_are_a_fault():
    """They are placed by arrival, which is off by up to a reading's interval."""
    driver = FakeDriver()
    driver.ring = ring(0.2, 50, newest_s=5_000_000.0)
    check = sampling_of(driver, Clock())
    assert check.outcome is Outcome.FAILS
    assert "none that is known" in check.reason


def test_a_driver_that_gives_nothing_is_unknown_with_its_reason():
    """No driver, no such GPU, no name for the GPU, no ring: never a guess."""
    assert check_sampling(bench(Nvml(None, "no driver here"))).reason == "no driver here"
    assert check_sampling(bench(Nvml(None, None), uuid=None)).reason == "the trial named no GPU"
    driver = FakeDriver()
    driver.refusals["nvmlDeviceGetSamples"] = 3
    check = sampling_of(driver, Clock())
    assert (check.outcome, check.reason) == (Outcome.UNKNOWN, "the driver keeps no ring of samples")
    assert check_sampling(bench(kind="cpu")) is None
    assert check_clocks(bench(kind="replay")) is None


def trial(*clocks_mhz, first_s=1.0, uuid=UUID):
    """Three windows of a second from 10 s on in the loop, which is from 1 s on in the trace, and clock readings."""
    made = complete(1, settings(2, 8), 32.0, stall_ratio=0.0)  # four batches of 8 a second
    windows = tuple(
        msgspec.structs.replace(window, started_s=10.0 + place, duration_s=1.0)
        for place, window in enumerate(made.measurement.windows[:3])
    )
    states = tuple(
        GpuState(at_s=first_s + place, memory_bytes=None, power_w=None, sm_clock_mhz=clock, throttle_reasons=None)
        for place, clock in enumerate(clocks_mhz)
    )
    return msgspec.structs.replace(
        made,
        measurement=msgspec.structs.replace(made.measurement, windows=windows, device_uuid=uuid),
        trace=msgspec.structs.replace(made.trace, gpu_states=states, measuring_s=(1.0, 4.0)),
    )


@pytest.mark.parametrize(
    ("clocks_mhz", "first_s", "outcome", "told"),
    [
        ((1980, 1980, 1980), 1.0, Outcome.HOLDS, "3 of 3 windows known, 1980 to 1980 MHz"),
        ((1980, 1965, 1930), 1.0, Outcome.HOLDS, "1930"),
        ((1980, 1980, 1980, 1200), 1.0, Outcome.UNKNOWN, "the clock moved"),
        ((1980,), 1.0, Outcome.FAILS, "no reading lies in or beside 1 windows"),
        ((1980, 1980), 20.0, Outcome.UNKNOWN, "the driver gave no clock"),
        ((None, None, None), 1.0, Outcome.UNKNOWN, "the driver gave no clock"),
    ],
)
def test_the_clock_must_be_known_in_every_window_and_hold(clocks_mhz, first_s, outcome, told):
    """A window without a reading is a fault; a clock that moves makes rates of different GPUs, which is nobody's."""
    check = check_clocks(bench(trials=[trial(*clocks_mhz, first_s=first_s)]))
    assert check.outcome is outcome
    assert told in f"{check.measured} {check.reason}"


def test_windows_of_a_replay_have_no_clock_to_be_known():
    """Its trials run on no GPU; only those that do are looked at."""
    check = check_clocks(bench(trials=[trial(1980, 1980, 1980), trial(uuid=None)]))
    assert (check.outcome, check.measured) == (Outcome.HOLDS, "3 of 3 windows known, 1980 to 1980 MHz")


def cell(*looks):
    """The figure of a cell after one look or two."""
    bounds = {"low": min(looks), "high": max(looks)} if len(looks) > 1 else {}
    return Figure(quantity="a cell", value=(looks[0] * looks[-1]) ** 0.5, unit="x", **bounds)


@pytest.mark.parametrize(
    ("cells", "problem", "is_disturbed", "outcome", "told"),
    [
        ([cell(1.0), cell(0.96)], "", False, Outcome.HOLDS, ""),
        ([cell(1.0), cell(1.2, 1.21)], "", False, Outcome.FAILS, "both looks at 1 of 2"),
        ([cell(1.0), cell(0.8, 0.9)], "time", False, Outcome.FAILS, "time"),
        ([cell(1.0), cell(1.2, 1.21)], "", True, Outcome.UNKNOWN, "others used the processors"),
        ([cell(1.0), cell(1.3, 0.98)], "", False, Outcome.UNKNOWN, "not in two looks"),
        ([cell(1.06, 0.97)], "", False, Outcome.HOLDS, ""),
        ([cell(1.2)], "", False, Outcome.UNKNOWN, "not in two looks"),
        ([cell(1.0)], "there was time for 1 of 6", False, Outcome.UNKNOWN, "1 of 6"),
        ([], "it could not be recorded", False, Outcome.UNKNOWN, "recorded"),
    ],
)
def test_a_replay_fails_only_by_a_cell_that_is_off_twice(cells, problem, is_disturbed, outcome, told):
    """Trials of one setting differ by some per cent, so that one look proves nothing."""
    found, reason = judge_cells(cells, problem, is_disturbed=is_disturbed)
    assert found is outcome
    assert told in (reason or "")
    assert (reason is None) == (outcome is Outcome.HOLDS)


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (1, 2), (2, 8), (3, 16), (16, 16), (64, 4)])
def test_six_cells_surround_the_setting(workers, batch_size):
    """Three worker counts by two batch sizes, all different, the setting's own batch among them."""
    cells = find_cells(Settings(num_workers=workers, batch_size=batch_size))
    assert len(set(cells)) == 6
    assert len({each.num_workers for each in cells}) == 3
    assert len({each.batch_size for each in cells}) == 2
    assert batch_size in {each.batch_size for each in cells}
    assert all(each.num_workers >= 1 for each in cells)
