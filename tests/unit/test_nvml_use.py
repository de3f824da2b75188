"""Counters, performance metrics and processes of a GPU: read by name, and what follows from them in a trace."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtune.monitor import gpu
from loadtune.monitor.gpu import GpmReadings, GpuReadings
from loadtune.monitor.gpu_processes import HIDDEN, OTHER_NUMBERS, Others, find_others, shares_driver_pids
from loadtune.monitor.gpu_trace import NO_TIME_COUNTER, WRAPPED, GpuPoint, compute_gpu_use
from loadtune.monitor.gpu_watch import GpuWatch
from loadtune.monitor.nvml_answer import Code
from loadtune.records.resources import GpuUse, Throttled, Unavailable
from tests.fake_driver import MIG_UUID, NOW_S, UUID, Clock, FakeDriver, make_reader, reasons_of, us

NOBODY = Others()


@pytest.fixture
def driver():
    return FakeDriver()


@pytest.fixture
def clock():
    return Clock()


def test_counters_are_read_in_seconds_joules_and_bytes(driver, clock):
    """Nanoseconds and millijoules are the driver's."""
    state = make_reader(driver, clock).read_state()
    idle = dict.fromkeys(("thermal", "sync_boost", "board_limit", "reliability"), 0.0)
    assert state.throttled_s == {"power_cap": 2.0, **idle}
    assert (state.pcie_tx_bytes, state.pcie_rx_bytes) == (1000, 2000)
    assert (state.energy_j, state.pcie_generation, state.pcie_width) == (5000.0, 4, 16)


def test_a_field_that_is_refused_leaves_the_others(driver, clock):
    """Each field has a return code of its own; a reading without any field left has its reason."""
    driver.field_refusals = {76: Code.NOT_SUPPORTED, 197: Code.NOT_SUPPORTED, 198: Code.INVALID_ARGUMENT}
    found = make_reader(driver, clock)
    state = found.read_state()
    assert set(state.throttled_s) == {"power_cap", "thermal", "board_limit", "reliability"}
    assert (state.pcie_rx_bytes, state.pcie_tx_bytes) == (None, None)
    assert reasons_of(found) == {gpu.PCIE_BYTES: "the driver does not know what is asked for"}
    driver.calls.clear()
    found.read_state()
    assert driver.calls.count("nvmlDeviceGetFieldValues") == 1


def test_one_direction_alone_is_no_reading(driver, clock):
    """Which of the two is missing would have to be told apart everywhere."""
    driver.field_refusals = {197: Code.NOT_SUPPORTED}
    assert make_reader(driver, clock).read_state().pcie_rx_bytes is None


def test_fields_that_a_driver_does_not_have_at_all_are_two_reasons(driver, clock):
    """And they are not asked for again."""
    driver.refusals["nvmlDeviceGetFieldValues"] = Code.FUNCTION_NOT_FOUND
    found = make_reader(driver, clock)
    assert found.read_state().throttled_s is None
    assert reasons_of(found) == dict.fromkeys((gpu.THROTTLED, gpu.PCIE_BYTES), "the driver is too old for it")
    driver.calls.clear()
    found.read_state()
    assert "nvmlDeviceGetFieldValues" not in driver.calls


def test_a_field_that_fails_once_is_asked_for_again(driver, clock):
    """A passing error drops nothing."""
    driver.field_refusals = {75: 10}
    found = make_reader(driver, clock)
    assert "thermal" not in found.read_state().throttled_s
    driver.field_refusals = {}
    assert "thermal" in found.read_state().throttled_s
    assert found.unavailable == ()


def test_metrics_are_the_means_between_two_readings(driver, clock):
    """The first reading was taken at the start; what lies too close gives nothing, and is no loss."""
    found = make_reader(driver, clock)
    assert found.read_state().gpm is None
    clock.now_s += 1
    assert found.read_state().gpm == GpmReadings(0.6, 0.3, 0.2, 0.45)
    clock.now_s += 0.05
    assert found.read_state().gpm is None
    clock.now_s += 1
    assert found.read_state().gpm is not None
    assert found.gpm_reason() is None
    found.close()
    assert driver.gpm_samples == []
    assert found.read_state().gpm is None


def test_a_metric_that_is_no_share_is_left_out(driver, clock):
    """Each has a return code of its own; NaN and more than 100 were seen."""
    driver.gpm_percent = {2: float("nan"), 3: 130.0, 10: 45.0}
    found = make_reader(driver, clock)
    clock.now_s += 1
    assert found.read_state().gpm == GpmReadings(dram_active_ratio=0.45)
    driver.gpm_percent = {}
    clock.now_s += 1
    assert found.read_state().gpm is None


@pytest.mark.parametrize("refused", ["nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleGet"])
def test_refused_metrics_are_one_reason(driver, clock, refused):
    """Wherever the driver refuses."""
    driver.refusals[refused] = Code.NO_PERMISSION
    found = make_reader(driver, clock)
    clock.now_s += 1
    assert found.read_state().gpm is None
    assert reasons_of(found)[gpu.GPM] == "the driver gives no permission"


def test_a_gpu_without_metrics_says_so(driver, clock):
    """As before Hopper."""
    driver.has_gpm = False
    found = make_reader(driver, clock)
    assert reasons_of(found) == {gpu.GPM: "the driver says that this GPU has none"}
    assert found.gpm_reason() == "the driver says that this GPU has none"
    assert driver.gpm_samples == []


def test_metrics_of_a_mig_instance_are_asked_of_its_gpu(driver, clock):
    """By the instance's number."""
    driver.instances = {UUID: [MIG_UUID]}
    found = make_reader(driver, clock, MIG_UUID)
    clock.now_s += 1
    assert found.read_state().gpm is not None
    assert {sample.of for sample in driver.gpm_samples} == {(UUID, 3)}


def test_processes_and_what_they_used_since(driver, clock):
    """What the driver's buffer held before the start does not count; a second look sees only what is new."""
    driver.process_rows = [(us(NOW_S - 5), 4711, 90)]
    found = make_reader(driver, clock)
    driver.process_rows += [(us(NOW_S + 0.5), 4711, 60), (us(NOW_S + 0.9), 4711, 20), (us(NOW_S + 0.9), 99, 10)]
    state = found.read_state()
    assert state.pids == {4711}
    assert state.sm_ratio_by_pid == {4711: pytest.approx(0.4), 99: pytest.approx(0.1)}
    assert found.read_state().sm_ratio_by_pid == {}


def test_zero_rows_and_garbage(driver, clock):
    """Success without rows is raised as value 0, and means that nobody used it; more than 100 per cent is not known."""
    found = make_reader(driver, clock)
    driver.refusals["nvmlDeviceGetProcessUtilization"] = 0
    assert found.read_state().sm_ratio_by_pid == {}
    del driver.refusals["nvmlDeviceGetProcessUtilization"]
    driver.process_rows = [(us(NOW_S + 1), 4711, 4_000_000)]
    assert found.read_state().sm_ratio_by_pid is None
    assert found.unavailable == ()


def test_an_older_driver_lists_processes_by_its_older_call(driver, clock):
    """And where it has neither, there is a reason."""
    driver.refusals["nvmlDeviceGetComputeRunningProcesses_v3"] = Code.FUNCTION_NOT_FOUND
    driver.nvmlDeviceGetComputeRunningProcesses_v2 = lambda handle: []
    assert make_reader(driver, clock).read_state().pids == frozenset()
    del driver.nvmlDeviceGetComputeRunningProcesses_v2
    assert reasons_of(make_reader(driver, clock))[gpu.PROCESSES] == "the installed nvidia-ml-py is too old for it"


def test_others_are_told_by_number_only_where_numbers_are_ours():
    """In a container only their count says something."""
    seen = GpuReadings(pids=frozenset({7, 8, 9}), sm_ratio_by_pid={7: 0.5, 9: 0.3, 10: 0.9})
    assert find_others(seen, {7, 8}, 1, shares_pids=True) == Others(1, 1.0)
    assert find_others(seen, {7, 8}, 1, shares_pids=False) == Others(
        2, None, ((gpu.PROCESS_UTILISATION, OTHER_NUMBERS),)
    )


def test_a_list_shorter_than_the_trial_hides_some():
    """Drivers show nothing to some containers: that is no proof of being alone."""
    for shares_pids in (True, False):
        found = find_others(GpuReadings(pids=frozenset()), {7}, 1, shares_pids=shares_pids)
        assert (found.processes, dict(found.reasons)[gpu.PROCESSES]) == (None, HIDDEN)
    assert find_others(GpuReadings(), {7}, 1, shares_pids=True) == Others()


def test_the_pid_namespace_is_told_by_its_number(tmp_path):
    """That of the initial one is fixed in the kernel."""
    folder = tmp_path / "proc/self/ns"
    folder.mkdir(parents=True)
    assert not shares_driver_pids(tmp_path)
    (folder / "pid").symlink_to("pid:[4026531836]")
    assert shares_driver_pids(tmp_path)
    (folder / "pid").unlink()
    (folder / "pid").symlink_to("pid:[4026532999]")
    assert not shares_driver_pids(tmp_path)


def points(*readings, others=NOBODY):
    return [GpuPoint(NOW_S + place, each, others) for place, each in enumerate(readings)]


def counting(seconds, **changes):
    """Readings whose counters have grown for so long: 300 W, 40 % power cap, 2 GB/s in, 1 GB/s out."""
    plain = GpuReadings(
        energy_j=7e6 + 300 * seconds,
        throttled_s={"power_cap": 50 + 0.4 * seconds, "thermal": 3.0},
        pcie_rx_bytes=int(2e9 * seconds),
        pcie_tx_bytes=int(1e9 * seconds),
        pcie_generation=4,
        pcie_width=16,
        gpm=GpmReadings(0.6, 0.3, 0.2, 0.45),
    )
    return GpuReadings(**{name: getattr(plain, name) for name in plain.__slots__} | changes)


def test_counters_give_means_of_the_measuring_interval():
    """Whatever lies before and after; causes that did not act are left out."""
    seen = [counting(second) for second in range(11)]
    seen[0] = counting(-50)
    use, reasons = compute_gpu_use(points(*seen, others=Others(2, 0.25)), (NOW_S + 2.5, NOW_S + 7.5))
    assert use == GpuUse(
        energy_j=pytest.approx(1500),
        mean_power_w=pytest.approx(300),
        throttled=(Throttled(cause="power_cap", ratio=pytest.approx(0.4)),),
        pcie_rx_bytes_per_s=pytest.approx(2e9),
        pcie_tx_bytes_per_s=pytest.approx(1e9),
        pcie_generation=4,
        pcie_width=16,
        sm_active_ratio=pytest.approx(0.6),
        sm_occupancy_ratio=pytest.approx(0.3),
        tensor_active_ratio=pytest.approx(0.2),
        dram_active_ratio=pytest.approx(0.45),
        other_processes=2,
        other_sm_ratio=pytest.approx(0.25),
    )
    assert reasons == {}


def test_a_counter_of_32_bits_is_carried_past_its_end():
    """As PCIe's are on an H100: what moves between two readings is what moved, as long as it is under 4 GiB."""
    driver, clock = FakeDriver(), Clock()
    driver.short_fields = {197, 198}
    made = make_reader(driver, clock)
    seen = []
    for moved in (2**32 - 1000, 2**32 + 500, 2**32 + 3 * 2**30, 2 * 2**32 + 7):
        driver.fields[198] = moved
        seen.append(made.read_state().pcie_rx_bytes)
    assert [later - earlier for earlier, later in pairwise(seen)] == [1500, 3 * 2**30 - 500, 2**30 + 7]


def test_a_link_counts_under_load():
    """It falls back when the GPU idles, in generation and in width."""
    seen = [counting(0, pcie_generation=1), counting(1), counting(2, pcie_generation=1, pcie_width=8)]
    use, _ = compute_gpu_use(points(*seen), None)
    assert (use.pcie_generation, use.pcie_width) == (4, 16)


def test_power_without_a_counter_is_the_mean_of_looks():
    """Weighted by the time that each stands for."""
    seen = [GpuPoint(NOW_S + at_s, GpuReadings(power_w=watt)) for at_s, watt in ((0, 999.0), (1, 100.0), (4, 400.0))]
    use, _ = compute_gpu_use(seen, None)
    assert (use.energy_j, use.mean_power_w) == (None, pytest.approx((100 + 3 * 400) / 4))


def test_counters_that_cannot_be_are_not_used():
    """One that wrapped, and one that counts faster than time: no number, and the reason."""
    seen = [counting(second, throttled_s={"thermal": 5.0 * second}) for second in range(4)]
    seen[2] = msgspec_replace(seen[2], pcie_rx_bytes=10)
    use, reasons = compute_gpu_use(points(*seen), None)
    assert (use.throttled, use.pcie_rx_bytes_per_s) == (None, None)
    assert reasons == {gpu.THROTTLED: NO_TIME_COUNTER, gpu.PCIE_BYTES: WRAPPED}


def msgspec_replace(readings, **changes):
    return GpuReadings(**{name: getattr(readings, name) for name in readings.__slots__} | changes)


def test_two_points_are_needed():
    """None, not a mean of nothing."""
    assert compute_gpu_use(points(counting(0)), None) == (None, {})
    assert compute_gpu_use([], (0.0, 1.0)) == (None, {})
    assert compute_gpu_use(points(counting(0), counting(1)), (NOW_S + 5, NOW_S + 9)) == (None, {})


@given(st.lists(st.floats(0.05, 3.0), min_size=2, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_means_do_not_depend_on_the_pace_of_reading(gaps, start, length):
    """Of counters that grow evenly, wherever the marks fall."""
    at_s = [0.0]
    for gap in gaps:
        at_s.append(at_s[-1] + gap)
    seen = [GpuPoint(NOW_S + second, counting(second)) for second in at_s]
    begin_s = NOW_S + start * at_s[-1]
    use, _ = compute_gpu_use(seen, (begin_s, begin_s + 0.01 + length * at_s[-1]))
    if use is not None:
        assert use.mean_power_w == pytest.approx(300, rel=1e-3)
        assert use.pcie_rx_bytes_per_s == pytest.approx(2e9, rel=1e-3)


class Session:
    """A driver session with one reader."""

    reason = refusal = None

    def __init__(self, reader):
        self.reader = reader
        self.opened = 0

    def device(self, uuid):
        self.opened += 1
        return self.reader


def test_the_watch_opens_once_and_explains_every_gap(driver, clock):
    """A reader under another name than was asked for, as of a MIG instance, is not opened anew at each reading."""
    driver.has_gpm = False
    driver.refusals["nvmlDeviceGetTotalEnergyConsumption"] = Code.NO_PERMISSION
    session = Session(make_reader(driver, clock))
    watch = GpuWatch(session, clock, shares_pids=False)
    watch.tick(clock(), {4711}, 1)
    assert session.opened == 0
    watch.use("GPU-as-cuda-names-it")
    for _ in range(4):
        watch.tick(clock(), {4711}, 1)
        clock.now_s += 1
    assert session.opened == 1
    use, reasons = watch.use_within(None)
    assert use.throttled == ()
    assert use.mean_power_w == pytest.approx(312.5)
    assert use.other_processes == 0
    named = {f"gpu_use.{name}" for name, value in msgspec.structs.asdict(use).items() if value is None}
    assert named == set(reasons)
    assert reasons["gpu_use.energy_j"] == "the driver gives no permission"
    assert reasons["gpu_use.dram_active_ratio"] == "the driver says that this GPU has none"
    assert reasons["gpu_use.other_sm_ratio"] == OTHER_NUMBERS
    watch.close()


def test_a_watch_that_found_no_gpu_says_so_once(clock):
    """One reason for all of it."""
    session = Session(None)
    session.refusal = "GPU-1: the driver knows no such thing"
    watch = GpuWatch(session, clock, shares_pids=True)
    assert watch.use_within(None) == (None, {})
    watch.use("GPU-1")
    watch.tick(clock(), (), 1)
    assert watch.use_within(None) == (None, {"gpu_use": "GPU-1: the driver knows no such thing"})
    watch.close()


def test_every_reading_is_a_field_of_the_trace():
    """So that the reason for a None is found under its own name."""
    fields = {f"gpu_use.{name}" for name in GpuUse.__struct_fields__}
    explained = {*gpu.READINGS, *gpu.READ_TOGETHER}
    assert fields <= explained
    assert {name for name in explained if name.startswith("gpu_use.")} <= fields
    assert all(Unavailable(reading=name, reason="x") for name in explained)
