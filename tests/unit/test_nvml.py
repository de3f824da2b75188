"""The door to pynvml: healthy, degraded and dying drivers, each scripted."""

# ruff: noqa: N802, N815 - the fakes bear NVML's own names
import ctypes
import sys
from types import SimpleNamespace

import pytest

from loadtune.monitor import nvml as door
from loadtune.monitor.driver_clock import DriverClock
from loadtune.monitor.nvml import Code, GpuReader, Nvml, name_throttle_reasons

UUID = "GPU-8c1ae3c2-0000-1111-2222-333344445555"
NOW_S = 1000.0
EPOCH_S = 1_790_000_000.0


class FakeNvmlError(Exception):
    """Stands for pynvml.NVMLError."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


class FakeDriver:
    """Stands for the module pynvml. Refusals are set by function name; a ring holds (microseconds, percent)."""

    NVMLError = FakeNvmlError
    NVML_GPU_UTILIZATION_SAMPLES = 1
    NVML_CLOCK_SM = 1
    nvmlMemory_v2 = 0x02000028

    def __init__(self):
        self.refusals = {}
        self.all_refused = None
        self.ring = []
        self.asked_since = []
        self.rate = 40
        self.mask = 0x4

    def _answer(self, name, value):
        code = self.all_refused or self.refusals.get(name)
        if code is not None:
            raise FakeNvmlError(code)
        return value

    def nvmlInit(self):
        return self._answer("nvmlInit", None)

    def nvmlShutdown(self):
        return self._answer("nvmlShutdown", None)

    def nvmlDeviceGetCount(self):
        return self._answer("nvmlDeviceGetCount", 2)

    def nvmlSystemGetDriverVersion(self):
        return self._answer("nvmlSystemGetDriverVersion", "580.95.05")

    def nvmlDeviceGetHandleByIndex(self, index):
        if index == 1:
            raise FakeNvmlError(Code.NO_PERMISSION)
        return self._answer("nvmlDeviceGetHandleByIndex", index)

    def nvmlDeviceGetUUID(self, handle):
        return self._answer("nvmlDeviceGetUUID", UUID)

    def nvmlDeviceGetName(self, handle):
        return self._answer("nvmlDeviceGetName", "NVIDIA H100")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in {UUID, "MIG-1"}:
            raise FakeNvmlError(Code.NOT_FOUND)
        return self._answer("nvmlDeviceGetHandleByUUID", 0)

    def nvmlDeviceGetSamples(self, handle, kind, since_us):
        self.asked_since.append(since_us)
        fresh = [
            SimpleNamespace(timeStamp=stamp, sampleValue=SimpleNamespace(uiVal=percent))
            for stamp, percent in self.ring
            if stamp > since_us
        ]
        answer = self._answer("nvmlDeviceGetSamples", (1, fresh))
        if not fresh:
            raise FakeNvmlError(Code.NOT_FOUND)
        return answer

    def nvmlDeviceGetUtilizationRates(self, handle):
        return self._answer("nvmlDeviceGetUtilizationRates", SimpleNamespace(gpu=self.rate, memory=1))

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        name = "nvmlDeviceGetMemoryInfo" + ("_v2" if version else "")
        return self._answer(name, SimpleNamespace(total=80 << 30, used=(2 if version else 3) << 30))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("nvmlDeviceGetPowerUsage", 312_500)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._answer("nvmlDeviceGetClockInfo", 1755)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("nvmlDeviceGetCurrentClocksEventReasons", self.mask)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self._answer("nvmlDeviceGetCurrentClocksThrottleReasons", self.mask)


class Clock:
    """A clock that stands until it is moved; boot is 50 s ahead of it, as after a suspend."""

    def __init__(self):
        self.now_s = NOW_S

    def __call__(self):
        return self.now_s

    def driver_clock(self):
        return DriverClock(self, lambda: EPOCH_S + self.now_s, lambda: self.now_s + 50)


@pytest.fixture
def driver(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


@pytest.fixture
def clock():
    return Clock()


def reader(driver, clock, uuid=UUID):
    return GpuReader(driver, 0, uuid, monotonic=clock, driver_clock=clock.driver_clock())


def us(seconds):
    return round(seconds * 1e6)


def reasons(found):
    return {item.reading: item.reason for item in found.unavailable}


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
    assert Nvml.open().reason == "the package nvidia-ml-py is not installed"


def test_driver_not_loaded_is_told_from_no_library(driver):
    """The hint differs, so the words do."""
    driver.refusals["nvmlInit"] = Code.DRIVER_NOT_LOADED
    assert Nvml.open().reason == "the NVIDIA driver is not loaded"


def test_gpus_are_listed_and_the_forbidden_one_is_named(driver):
    """A GPU that this user may not open is left out, with its index and reason."""
    nvml = Nvml.open()
    (gpu,) = nvml.gpus()
    assert (gpu.uuid, gpu.name, gpu.memory_bytes, gpu.driver) == (UUID, "NVIDIA H100", 80 << 30, "580.95.05")
    assert reasons(nvml) == {"gpus[1]": "the driver gives no permission"}


def test_refused_count_is_a_reason(driver):
    """No list, no error."""
    driver.refusals["nvmlDeviceGetCount"] = 999
    nvml = Nvml.open()
    assert nvml.gpus() == ()
    assert reasons(nvml) == {"gpus": "NVML error 999: code 999"}


def test_device_is_found_by_bare_uuid_and_refused_by_an_unknown_one(driver):
    """torch gives a UUID without its prefix."""
    nvml = Nvml.open()
    assert nvml.device(UUID.removeprefix("GPU-")).uuid == UUID
    assert nvml.refusal is None
    assert nvml.device("GPU-other") is None
    assert "GPU-other" in nvml.refusal
    nvml.close()
    assert nvml.device(UUID) is None


def test_healthy_state_is_read_in_units(driver, clock):
    """Milliwatts become watts; version 2 of memory leaves the driver's reserve out."""
    state = reader(driver, clock).read_state()
    assert (state.memory_bytes, state.power_w, state.sm_clock_mhz) == (2 << 30, 312.5, 1755)
    assert state.throttle_reasons == ("sw_power_cap",)


def test_samples_are_read_once_each(driver, clock):
    """Duplicates within the ring and between drains are dropped, and only stamps of NVML go back to it."""
    driver.ring = [(us(NOW_S - 0.5), 50), (us(NOW_S - 0.5), 50), (us(NOW_S - 0.2), 101), (us(NOW_S - 0.1), 100)]
    gpu = reader(driver, clock)
    assert gpu.drain_utilisation() == [(pytest.approx(NOW_S - 0.5), 0.5), (pytest.approx(NOW_S - 0.1), 1.0)]
    clock.now_s += 1
    driver.ring += [(us(NOW_S + 0.9), 10)]
    assert gpu.drain_utilisation() == [(pytest.approx(NOW_S + 0.9), 0.1)]
    assert driver.asked_since == [0, 0, us(NOW_S - 0.1)]


@pytest.mark.parametrize(
    ("ahead_s", "domain"), [(0.0, "monotonic"), (50.0, "boot"), (EPOCH_S, "epoch"), (5e6, "arrival")]
)
def test_driver_stamps_of_any_clock_reach_ours(driver, clock, ahead_s, domain):
    """Epoch, boot, our own, or a clock of the driver's: the spacing is kept; only on its own is the newest now."""
    age_s = 0.0 if domain == "arrival" else 0.25
    driver.ring = [(us(NOW_S + ahead_s - 1.25), 20), (us(NOW_S + ahead_s - 0.25), 30)]
    converter = clock.driver_clock()
    gpu = GpuReader(driver, 0, UUID, monotonic=clock, driver_clock=converter)
    assert [at_s for at_s, _ in gpu.drain_utilisation()] == [
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
    gpu = reader(driver, clock)
    gpu.drain_utilisation()
    clock.now_s += 1
    assert gpu.drain_utilisation() == []
    clock.now_s += door.RING_DRY_S
    assert gpu.drain_utilisation() == [(clock.now_s, 0.0)]
    assert gpu.unavailable == ()


def test_ring_unsupported_uses_rates_alone(driver, clock):
    """No reason is needed: there is a reading."""
    driver.refusals["nvmlDeviceGetSamples"] = Code.NOT_SUPPORTED
    gpu = reader(driver, clock)
    assert gpu.drain_utilisation() == [(NOW_S, 0.4)]
    assert gpu.unavailable == ()


def test_mig_instance_has_memory_but_no_utilisation(driver, clock):
    """One reason, from the start, and no samples."""
    driver.refusals |= dict.fromkeys(
        ("nvmlDeviceGetSamples", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage"), Code.NOT_SUPPORTED
    )
    gpu = reader(driver, clock, "MIG-1")
    assert gpu.drain_utilisation() == []
    assert gpu.read_state().memory_bytes == 2 << 30
    assert reasons(gpu) == {
        door.UTILISATION: "MIG instances have no utilisation",
        door.POWER: "the GPU or its driver does not support it",
    }


def test_old_driver_is_read_by_its_old_names(driver, clock):
    """No version 2 of memory, and throttle reasons under their deprecated name."""
    driver.refusals |= {
        "nvmlDeviceGetMemoryInfo_v2": Code.FUNCTION_NOT_FOUND,
        "nvmlDeviceGetCurrentClocksEventReasons": Code.FUNCTION_NOT_FOUND,
    }
    gpu = reader(driver, clock)
    assert (gpu.read_state().memory_bytes, gpu.read_state().throttle_reasons) == (3 << 30, ("sw_power_cap",))
    assert gpu.unavailable == ()


def test_old_binding_counts_as_an_old_driver(driver, clock):
    """A function that pynvml itself lacks is one refusal, not an AttributeError."""

    class OldBinding(FakeDriver):
        nvmlDeviceGetClockInfo = None

    assert reasons(reader(OldBinding(), clock)) == {door.SM_CLOCK: "the installed nvidia-ml-py is too old for it"}


def test_no_permission_drops_one_reading_with_one_reason(driver, clock):
    """The others go on, and the refused one is not asked again."""
    driver.refusals["nvmlDeviceGetPowerUsage"] = Code.NO_PERMISSION
    gpu = reader(driver, clock)
    del driver.refusals["nvmlDeviceGetPowerUsage"]
    assert (gpu.read_state().power_w, gpu.read_state().sm_clock_mhz) == (None, 1755)
    assert reasons(gpu) == {door.POWER: "the driver gives no permission"}


def test_passing_error_is_none_once(driver, clock):
    """A timeout drops nothing."""
    gpu = reader(driver, clock)
    driver.refusals["nvmlDeviceGetPowerUsage"] = 10
    assert gpu.read_state().power_w is None
    del driver.refusals["nvmlDeviceGetPowerUsage"]
    assert (gpu.read_state().power_w, gpu.unavailable) == (312.5, ())


def test_success_without_rows_is_nothing_found(driver, clock):
    """pynvml raises its base error with value 0 there."""
    driver.refusals["nvmlDeviceGetSamples"] = 0
    gpu = reader(driver, clock)
    assert gpu.drain_utilisation() == [(NOW_S, 0.4)]


@pytest.mark.parametrize("first", ["drain_utilisation", "read_state"])
def test_lost_gpu_reads_none_from_then_on(driver, clock, first):
    """Whichever call notices: everything is None, with the reason, and stays so."""
    gpu = reader(driver, clock)
    driver.all_refused = Code.GPU_IS_LOST
    getattr(gpu, first)()
    driver.all_refused = None
    assert gpu.drain_utilisation() == []
    assert gpu.read_state() == door.GpuReadings()
    assert "lost" in gpu.lost_reason
    assert set(reasons(gpu)) == {door.UTILISATION, door.MEMORY, door.POWER, door.SM_CLOCK, door.THROTTLE}


def test_success_without_new_samples_is_nothing_new(driver, clock, monkeypatch):
    """Some drivers answer so instead of NotFound, or return the old samples again."""
    driver.ring = [(us(NOW_S - 0.1), 90)]
    gpu = reader(driver, clock)
    gpu.drain_utilisation()
    old = SimpleNamespace(timeStamp=us(NOW_S - 0.1), sampleValue=SimpleNamespace(uiVal=90))
    for rows in ([], [old]):
        monkeypatch.setattr(driver, "nvmlDeviceGetSamples", lambda *arguments, rows=rows: (1, rows))
        assert gpu.drain_utilisation() == []


def test_ring_refused_in_the_middle_leaves_the_rates(driver, clock):
    """As when MIG is switched on under a running probe."""
    gpu = reader(driver, clock)
    driver.refusals["nvmlDeviceGetSamples"] = Code.NOT_SUPPORTED
    assert gpu.drain_utilisation() == [(NOW_S, 0.4)]


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
    gpu = nvml.device(UUID)
    assert [ratio for _, ratio in gpu.drain_utilisation()] == [0.75]
    state = gpu.read_state()
    assert (state.memory_bytes, state.power_w, state.sm_clock_mhz, state.throttle_reasons) == (
        5 << 20,
        61.0,
        None,
        None,
    )
    assert reasons(gpu) == dict.fromkeys((door.SM_CLOCK, door.THROTTLE), "the driver is too old for it")
    assert ctypes.sizeof(pynvml.c_nvmlSample_t) == 16
    nvml.close()
