"""The door to pynvml: healthy, degraded and dying drivers, each scripted."""

# ruff: noqa: N802, N815 - the fake library bears NVML's own names
import ctypes
import sys
from types import SimpleNamespace

import pytest

from loadtune.monitor import gpu
from loadtune.monitor.driver_clock import DriverClock
from loadtune.monitor.gpu_reader import RING_DRY_S, GpuReader, name_throttle_reasons
from loadtune.monitor.nvml import MIG_UNKNOWN, Nvml
from loadtune.monitor.nvml_answer import Code, Device
from tests.fake_driver import EPOCH_S, MIG_UUID, NOW_S, OTHER_UUID, UUID, Clock, FakeDriver, us
from tests.fake_driver import make_reader as reader
from tests.fake_driver import reasons_of as reasons


@pytest.fixture
def driver(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    return fake


@pytest.fixture
def clock():
    return Clock()


def session(driver, **environ):
    """A session whose trials would inherit these variables and no others."""
    return Nvml(driver, None, environ=environ)


def test_no_library_is_a_reason_and_no_error(driver):
    """A machine without a driver: nothing to read, and the session says why."""
    driver.refusals["nvmlInit"] = Code.LIBRARY_NOT_FOUND
    nvml = Nvml.open()
    assert "libnvidia-ml.so.1 not found" in nvml.reason
    assert (nvml.gpus(), nvml.device(UUID)) == ((), None)
    assert nvml.refusal == nvml.reason
    assert reasons(nvml) == {"gpus": nvml.reason}
    nvml.close()


def test_missing_binding_is_a_reason(monkeypatch):
    """Without nvidia-ml-py the rest of loadtune still works."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert Nvml.open().reason == "the package nvidia-ml-py is not installed"


def test_driver_not_loaded_is_told_from_no_library(driver):
    """The hint differs, so the words do."""
    driver.refusals["nvmlInit"] = Code.DRIVER_NOT_LOADED
    assert Nvml.open().reason == "the NVIDIA driver is not loaded"


def test_gpus_are_listed_and_the_forbidden_one_is_named(driver):
    """A GPU that this user may not open is left out, with its index and reason."""
    driver.uuids = [UUID, None]
    nvml = session(driver)
    (found,) = nvml.gpus()
    assert (found.uuid, found.name, found.memory_bytes, found.driver) == (UUID, "NVIDIA H100", 80 << 30, "580.95.05")
    assert (found.max_sm_clock_mhz, found.pcie_max_generation, found.pcie_max_width) == (1980, 5, 16)
    assert (found.cuda_index, found.mig_uuids) == (0, ())
    assert reasons(nvml) == {"gpus[1]": "the driver gives no permission"}


def test_refused_count_is_a_reason(driver):
    """No list, no error."""
    driver.refusals["nvmlDeviceGetCount"] = 999
    nvml = Nvml.open()
    assert nvml.gpus() == ()
    assert reasons(nvml) == {"gpus": "NVML error 999: code 999"}


def test_device_is_found_by_bare_uuid_and_refused_by_an_unknown_one(driver):
    """torch gives a UUID without its prefix."""
    nvml = session(driver)
    assert nvml.device(UUID.removeprefix("GPU-")).uuid == UUID
    assert nvml.refusal is None
    assert nvml.device("GPU-other") is None
    assert "GPU-other" in nvml.refusal
    nvml.close()
    assert nvml.device(UUID) is None


def test_a_bare_uuid_may_be_a_mig_instance_s(driver):
    """CUDA gives an instance its own UUID, and torch does not say what kind it is."""
    driver.instances = {UUID: [MIG_UUID]}
    nvml = session(driver)
    assert nvml.device(MIG_UUID.removeprefix("MIG-")).uuid == MIG_UUID
    assert nvml.device(f"GPU-{MIG_UUID.removeprefix('MIG-')}").uuid == MIG_UUID
    assert nvml.device(MIG_UUID).uuid == MIG_UUID


def test_a_divided_gpu_is_read_by_the_instance_that_is_used(driver):
    """Where CUDA gives the GPU's UUID: the one that the variable names, else the only one, else none is guessed."""
    second = MIG_UUID.replace("1", "2")
    driver.instances = {UUID: [MIG_UUID, second]}
    assert session(driver, CUDA_VISIBLE_DEVICES=second).device(UUID).uuid == second
    nvml = session(driver)
    assert nvml.device(UUID) is None
    assert nvml.refusal == f"{UUID}: {MIG_UNKNOWN}"
    driver.instances = {UUID: [second]}
    assert session(driver).device(UUID).uuid == second


def test_an_unknown_uuid_falls_back_on_the_instance_that_the_variable_names(driver):
    """And on nothing else: an index says nothing about an unknown UUID."""
    driver.instances = {UUID: [MIG_UUID]}
    assert session(driver, CUDA_VISIBLE_DEVICES=MIG_UUID).device("GPU-unknown").uuid == MIG_UUID
    assert session(driver, CUDA_VISIBLE_DEVICES="0").device("GPU-unknown") is None


def test_a_gpu_that_may_not_be_opened_is_not_sought_under_another_name(driver):
    """The refusal is the driver's own."""
    driver.refusals["nvmlDeviceGetHandleByUUID"] = Code.NO_PERMISSION
    nvml = session(driver)
    assert nvml.device(UUID) is None
    assert nvml.refusal == f"{UUID}: the driver gives no permission"


def test_several_gpus_have_the_indices_that_cuda_gives_them(driver):
    """The list keeps the order of the bus; instances are listed with their GPU."""
    driver.uuids = [UUID, OTHER_UUID]
    driver.instances = {OTHER_UUID: [MIG_UUID]}
    first, second = session(driver, CUDA_VISIBLE_DEVICES="1,0").gpus()
    assert (first.uuid, first.cuda_index, first.mig_uuids) == (UUID, 1, ())
    assert (second.uuid, second.cuda_index, second.mig_uuids) == (OTHER_UUID, 0, (MIG_UUID,))
    assert [each.cuda_index for each in session(driver, CUDA_VISIBLE_DEVICES="").gpus()] == [None, None]
    older = session(driver, CUDA_VISIBLE_DEVICES=f"MIG-{OTHER_UUID}/3/0").gpus()
    assert [each.cuda_index for each in older] == [None, 0]


def test_indices_among_different_models_are_not_guessed(driver):
    """CUDA sorts by speed unless told otherwise; the reason is kept."""
    driver.uuids, driver.names = [UUID, OTHER_UUID], {UUID: "T400", OTHER_UUID: "NVIDIA H100"}
    nvml = session(driver)
    assert [each.cuda_index for each in nvml.gpus()] == [None, None]
    assert "by their speed" in reasons(nvml)["gpus.cuda_index"]
    nvml = session(driver, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert [each.cuda_index for each in nvml.gpus()] == [0, 1]
    assert nvml.unavailable == ()


def test_healthy_state_is_read_in_units(driver, clock):
    """Milliwatts become watts; version 2 of memory leaves the driver's reserve out."""
    state = reader(driver, clock).read_state()
    assert (state.memory_bytes, state.power_w, state.sm_clock_mhz) == (2 << 30, 312.5, 1755)
    assert state.throttle_reasons == ("sw_power_cap",)


def test_samples_are_read_once_each(driver, clock):
    """Duplicates within the ring and between drains are dropped, and only stamps of NVML go back to it."""
    driver.ring = [(us(NOW_S - 0.5), 50), (us(NOW_S - 0.5), 50), (us(NOW_S - 0.2), 101), (us(NOW_S - 0.1), 100)]
    found = reader(driver, clock)
    assert found.drain_utilisation() == [(pytest.approx(NOW_S - 0.5), 0.5), (pytest.approx(NOW_S - 0.1), 1.0)]
    clock.now_s += 1
    driver.ring += [(us(NOW_S + 0.9), 10)]
    assert found.drain_utilisation() == [(pytest.approx(NOW_S + 0.9), 0.1)]
    assert driver.asked_since == [0, 0, us(NOW_S - 0.1)]


@pytest.mark.parametrize(
    ("ahead_s", "domain"), [(0.0, "monotonic"), (50.0, "boot"), (EPOCH_S, "epoch"), (5e6, "arrival")]
)
def test_driver_stamps_of_any_clock_reach_ours(driver, clock, ahead_s, domain):
    """Epoch, boot, our own, or a clock of the driver's: the spacing is kept; only on its own is the newest now."""
    age_s = 0.0 if domain == "arrival" else 0.25
    driver.ring = [(us(NOW_S + ahead_s - 1.25), 20), (us(NOW_S + ahead_s - 0.25), 30)]
    converter = clock.driver_clock()
    found = GpuReader(Device(driver, UUID, UUID), monotonic=clock, driver_clock=converter)
    assert [at_s for at_s, _ in found.drain_utilisation()] == [
        pytest.approx(NOW_S - age_s - 1, abs=1e-5),
        pytest.approx(NOW_S - age_s, abs=1e-5),
    ]
    assert converter.domain == domain


def test_a_stepped_wall_clock_moves_no_sample():
    """The offset follows the wall clock, whose stamps step with it."""
    wall = SimpleNamespace(ahead_s=EPOCH_S)
    converter = DriverClock(lambda: NOW_S, lambda: NOW_S + wall.ahead_s, lambda: NOW_S)
    before = converter.offset_s(NOW_S + EPOCH_S) + NOW_S + EPOCH_S
    wall.ahead_s += 7200
    assert converter.offset_s(NOW_S + wall.ahead_s) + NOW_S + wall.ahead_s == before == NOW_S


def test_dry_ring_falls_back_to_the_current_rate(driver, clock):
    """NotFound on an idle GPU is nothing new at first, and after a while the rate is asked instead."""
    driver.ring = [(us(NOW_S - 0.1), 90)]
    driver.rate = 0
    found = reader(driver, clock)
    found.drain_utilisation()
    clock.now_s += 1
    assert found.drain_utilisation() == []
    clock.now_s += RING_DRY_S
    assert found.drain_utilisation() == [(clock.now_s, 0.0)]
    assert found.unavailable == ()


def test_ring_unsupported_uses_rates_alone(driver, clock):
    """No reason is needed: there is a reading."""
    driver.refusals["nvmlDeviceGetSamples"] = Code.NOT_SUPPORTED
    found = reader(driver, clock)
    assert found.drain_utilisation() == [(NOW_S, 0.4)]
    assert found.unavailable == ()


def test_mig_instance_has_memory_but_no_utilisation(driver, clock):
    """One reason, from the start, and no samples."""
    driver.refusals |= dict.fromkeys(
        ("nvmlDeviceGetSamples", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage"), Code.NOT_SUPPORTED
    )
    driver.instances = {UUID: [MIG_UUID]}
    for uuid in (MIG_UUID, UUID):  # the instance, and a GPU that is divided
        found = reader(driver, clock, uuid)
        assert found.drain_utilisation() == []
        assert found.read_state().memory_bytes == 2 << 30
        assert reasons(found) == {
            gpu.UTILISATION: "MIG is enabled: the driver counts no utilisation",
            gpu.POWER: "the GPU or its driver does not support it",
        }


def test_old_driver_is_read_by_its_old_names(driver, clock):
    """No version 2 of memory, and throttle reasons under their deprecated name."""
    driver.refusals |= {
        "nvmlDeviceGetMemoryInfo_v2": Code.FUNCTION_NOT_FOUND,
        "nvmlDeviceGetCurrentClocksEventReasons": Code.FUNCTION_NOT_FOUND,
    }
    found = reader(driver, clock)
    assert (found.read_state().memory_bytes, found.read_state().throttle_reasons) == (3 << 30, ("sw_power_cap",))
    assert found.unavailable == ()


def test_old_binding_counts_as_an_old_driver(driver, clock):
    """A function that pynvml itself lacks is one refusal, not an AttributeError."""

    class OldBinding(FakeDriver):
        nvmlDeviceGetClockInfo = None

    assert reasons(reader(OldBinding(), clock)) == {gpu.SM_CLOCK: "the installed nvidia-ml-py is too old for it"}


def test_no_permission_drops_one_reading_with_one_reason(driver, clock):
    """The others go on, and the refused one is not asked again."""
    driver.refusals["nvmlDeviceGetPowerUsage"] = Code.NO_PERMISSION
    found = reader(driver, clock)
    del driver.refusals["nvmlDeviceGetPowerUsage"]
    assert (found.read_state().power_w, found.read_state().sm_clock_mhz) == (None, 1755)
    assert reasons(found) == {gpu.POWER: "the driver gives no permission"}


def test_passing_error_is_none_once(driver, clock):
    """A timeout drops nothing."""
    found = reader(driver, clock)
    driver.refusals["nvmlDeviceGetPowerUsage"] = 10
    assert found.read_state().power_w is None
    del driver.refusals["nvmlDeviceGetPowerUsage"]
    assert (found.read_state().power_w, found.unavailable) == (312.5, ())


def test_success_without_rows_is_nothing_found(driver, clock):
    """pynvml raises its base error with value 0 there."""
    driver.refusals["nvmlDeviceGetSamples"] = 0
    found = reader(driver, clock)
    assert found.drain_utilisation() == [(NOW_S, 0.4)]


@pytest.mark.parametrize("first", ["drain_utilisation", "read_state"])
def test_lost_gpu_reads_none_from_then_on(driver, clock, first):
    """Whichever call notices: everything is None, with the reason, and stays so."""
    found = reader(driver, clock)
    driver.all_refused = Code.GPU_IS_LOST
    getattr(found, first)()
    driver.all_refused = None
    assert found.drain_utilisation() == []
    assert found.read_state() == gpu.GpuReadings()
    assert "lost" in found.lost_reason
    assert set(reasons(found)) == set(gpu.READINGS)


def test_success_without_new_samples_is_nothing_new(driver, clock, monkeypatch):
    """Some drivers answer so instead of NotFound, or return the old samples again."""
    driver.ring = [(us(NOW_S - 0.1), 90)]
    found = reader(driver, clock)
    found.drain_utilisation()
    old = SimpleNamespace(timeStamp=us(NOW_S - 0.1), sampleValue=SimpleNamespace(uiVal=90))
    for rows in ([], [old]):
        monkeypatch.setattr(driver, "nvmlDeviceGetSamples", lambda *arguments, rows=rows: (1, rows))
        assert found.drain_utilisation() == []


def test_ring_refused_in_the_middle_leaves_the_rates(driver, clock):
    """As when MIG is switched on under a running probe."""
    found = reader(driver, clock)
    driver.refusals["nvmlDeviceGetSamples"] = Code.NOT_SUPPORTED
    assert found.drain_utilisation() == [(NOW_S, 0.4)]


def test_throttle_bits_have_names():
    """Unknown bits of newer drivers keep their number."""
    assert name_throttle_reasons(0) == ()
    assert name_throttle_reasons(0x1 | 0x40 | 0x800) == ("idle", "hw_thermal", "unknown_0x800")


class FakeLibrary:
    """Stands for libnvidia-ml.so.1 below pynvml; a missing attribute is a function that the driver lacks."""

    def nvmlInitWithFlags(self, flags):
        return 0

    def nvmlShutdown(self):
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, device):
        return 0

    def nvmlDeviceGetSamples(self, *arguments):
        count, samples = arguments[-2:]
        count._obj.value = 1
        if samples is not None:
            samples[0].timeStamp = us(NOW_S - 0.1)
            samples[0].sampleValue.uiVal = 75
        return 0

    def nvmlDeviceGetMemoryInfo(self, device, memory):
        memory._obj.used = 5 << 20
        return 0

    def nvmlDeviceGetPowerUsage(self, device, milliwatts):
        milliwatts._obj.value = 61_000
        return 0

    def nvmlDeviceGetUtilizationRates(self, device, rates):
        return int(Code.NOT_SUPPORTED)


def test_real_binding_answers_as_the_fake_module_does(monkeypatch):
    """Below pynvml's own functions. Pinned on two private names of nvidia-ml-py, nvmlLib and the pointer cache."""
    pynvml = pytest.importorskip("pynvml")
    monkeypatch.setattr(pynvml, "nvmlLib", FakeLibrary())
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    nvml = Nvml.open()
    assert nvml.reason is None
    found = nvml.device(UUID)
    assert [ratio for _, ratio in found.drain_utilisation()] == [0.75]
    state = found.read_state()
    assert (state.memory_bytes, state.power_w, state.sm_clock_mhz, state.throttle_reasons) == (
        5 << 20,
        61.0,
        None,
        None,
    )
    answered = {gpu.UTILISATION, gpu.MEMORY, gpu.POWER}
    assert reasons(found) == dict.fromkeys(set(gpu.READINGS) - answered, "the driver is too old for it")
    assert ctypes.sizeof(pynvml.c_nvmlSample_t) == 16
    nvml.close()
