"""A scripted stand-in for the module pynvml, healthy unless told otherwise, on a clock that is moved by hand."""

# ruff: noqa: N802, N815 - the fake bears NVML's own names
from types import SimpleNamespace

from loadtune.monitor.driver_clock import DriverClock
from loadtune.monitor.gpu_reader import GpuReader
from loadtune.monitor.nvml_answer import Code, Device

UUID = "GPU-8c1ae3c2-0000-1111-2222-333344445555"
OTHER_UUID = "GPU-8c1ae3c2-9999-1111-2222-333344445555"
MIG_UUID = "MIG-11111111-2222-3333-4444-555555555555"
NOW_S = 1000.0
EPOCH_S = 1_790_000_000.0
GIB = 1 << 30


class FakeNvmlError(Exception):
    """Stands for pynvml.NVMLError."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


class Clock:
    """A clock that stands until it is moved; boot is 50 s ahead of it, as after a suspend."""

    def __init__(self):
        self.now_s = NOW_S

    def __call__(self):
        return self.now_s

    def driver_clock(self):
        return DriverClock(self, lambda: EPOCH_S + self.now_s, lambda: self.now_s + 50)


class FakeDriver:
    """Stands for the module pynvml.

    Refusals are set by function name, those of fields by number; a ring holds (microseconds, percent), process rows
    (microseconds, pid, percent). Handles are UUIDs.
    """

    NVMLError = FakeNvmlError
    NVML_GPM_METRICS_GET_VERSION = 1
    nvmlMemory_v2 = 0x02000028

    def __init__(self):
        self.refusals = {}
        self.all_refused = None
        self.uuids = [UUID]
        self.instances = {}
        self.names = {}
        self.ring = []
        self.asked_since = []
        self.rate = 40
        self.mask = 0x4
        self.energy_mj = 5_000_000
        self.fields = {74: 2_000_000_000, 75: 0, 76: 0, 77: 0, 79: 0, 197: 1000, 198: 2000}
        self.field_refusals = {}
        self.short_fields = set()
        self.link = (4, 16)
        self.pids = [4711]
        self.process_rows = []
        self.has_gpm = True
        self.gpm_percent = {2: 60.0, 3: 30.0, 5: 20.0, 10: 45.0}
        self.gpm_samples = []
        self.calls = []

    def _answer(self, name, value):
        self.calls.append(name)
        code = self.all_refused or self.refusals.get(name)
        if code is not None:
            raise FakeNvmlError(code)
        return value() if callable(value) else value

    def nvmlInit(self):
        return self._answer("nvmlInit", None)

    def nvmlShutdown(self):
        return self._answer("nvmlShutdown", None)

    def nvmlDeviceGetCount(self):
        return self._answer("nvmlDeviceGetCount", len(self.uuids))

    def nvmlSystemGetDriverVersion(self):
        return self._answer("nvmlSystemGetDriverVersion", "580.95.05")

    def nvmlDeviceGetHandleByIndex(self, index):
        if self.uuids[index] is None:
            raise FakeNvmlError(Code.NO_PERMISSION)
        return self._answer("nvmlDeviceGetHandleByIndex", self.uuids[index])

    def nvmlDeviceGetUUID(self, handle):
        return self._answer("nvmlDeviceGetUUID", handle)

    def nvmlDeviceGetName(self, handle):
        return self._answer("nvmlDeviceGetName", self.names.get(handle, "NVIDIA H100"))

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in {*self.uuids, *(each for found in self.instances.values() for each in found)}:
            raise FakeNvmlError(Code.NOT_FOUND)
        return self._answer("nvmlDeviceGetHandleByUUID", uuid)

    def nvmlDeviceGetMigMode(self, handle):
        return self._answer("nvmlDeviceGetMigMode", [int(handle in self.instances)] * 2)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return self._answer("nvmlDeviceGetMaxMigDeviceCount", 7)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        found = self.instances[handle]
        if index >= len(found):
            raise FakeNvmlError(Code.NOT_FOUND)
        return self._answer("nvmlDeviceGetMigDeviceHandleByIndex", found[index])

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        return next(gpu for gpu, found in self.instances.items() if handle in found)

    def nvmlDeviceGetGpuInstanceId(self, handle):
        return 3

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
        return self._answer("nvmlDeviceGetUtilizationRates", lambda: SimpleNamespace(gpu=self.rate, memory=1))

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        name = "nvmlDeviceGetMemoryInfo" + ("_v2" if version else "")
        return self._answer(name, SimpleNamespace(total=80 * GIB, used=(2 if version else 3) * GIB))

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._answer("nvmlDeviceGetPowerUsage", 312_500)

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return self._answer("nvmlDeviceGetClockInfo", 1755)

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return self._answer("nvmlDeviceGetMaxClockInfo", 1980)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle):
        return self._answer("nvmlDeviceGetCurrentClocksEventReasons", lambda: self.mask)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self._answer("nvmlDeviceGetCurrentClocksThrottleReasons", lambda: self.mask)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self._answer("nvmlDeviceGetTotalEnergyConsumption", lambda: self.energy_mj)

    def nvmlDeviceGetCurrPcieLinkGeneration(self, handle):
        return self._answer("nvmlDeviceGetCurrPcieLinkGeneration", lambda: self.link[0])

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle):
        return self._answer("nvmlDeviceGetCurrPcieLinkWidth", lambda: self.link[1])

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle):
        return self._answer("nvmlDeviceGetMaxPcieLinkGeneration", 5)

    def nvmlDeviceGetMaxPcieLinkWidth(self, handle):
        return self._answer("nvmlDeviceGetMaxPcieLinkWidth", 16)

    def nvmlDeviceGetFieldValues(self, handle, fields):
        return self._answer("nvmlDeviceGetFieldValues", [self._field(number) for number in fields])

    def _field(self, number):
        code = self.field_refusals.get(number, 0 if number in self.fields else Code.NOT_SUPPORTED)
        number_of = self.fields.get(number, 0)
        is_short = number in self.short_fields
        value = SimpleNamespace(ullVal=0 if is_short else number_of, uiVal=number_of % 2**32 if is_short else 0)
        return SimpleNamespace(fieldId=number, nvmlReturn=int(code), valueType=1 if is_short else 3, value=value)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        return self._answer(
            "nvmlDeviceGetComputeRunningProcesses_v3", lambda: [SimpleNamespace(pid=pid) for pid in self.pids]
        )

    def nvmlDeviceGetProcessUtilization(self, handle, since_us):
        fresh = [
            SimpleNamespace(timeStamp=stamp, pid=pid, smUtil=percent)
            for stamp, pid, percent in self.process_rows
            if stamp > since_us
        ]
        answer = self._answer("nvmlDeviceGetProcessUtilization", fresh)
        if not fresh:
            raise FakeNvmlError(Code.NOT_FOUND)
        return answer

    def nvmlGpmQueryDeviceSupport(self, handle):
        return self._answer("nvmlGpmQueryDeviceSupport", SimpleNamespace(isSupportedDevice=int(self.has_gpm)))

    def nvmlGpmSampleAlloc(self):
        self.gpm_samples.append(SimpleNamespace(of=None))
        return self._answer("nvmlGpmSampleAlloc", self.gpm_samples[-1])

    def nvmlGpmSampleGet(self, handle, sample):
        sample.of = handle
        return self._answer("nvmlGpmSampleGet", sample)

    def nvmlGpmMigSampleGet(self, handle, instance, sample):
        sample.of = (handle, instance)
        return self._answer("nvmlGpmMigSampleGet", sample)

    def nvmlGpmSampleFree(self, sample):
        self.gpm_samples.remove(sample)
        return self._answer("nvmlGpmSampleFree", None)

    def c_nvmlGpmMetricsGet_t(self):
        return SimpleNamespace(metrics=[SimpleNamespace(nvmlReturn=0, value=0.0) for _ in range(8)])

    def nvmlGpmMetricsGet(self, question):
        assert question.sample1 is not question.sample2
        for place in range(question.numMetrics):
            metric = question.metrics[place]
            found = self.gpm_percent.get(metric.metricId)
            metric.nvmlReturn, metric.value = (int(Code.NOT_SUPPORTED), 0.0) if found is None else (0, found)
        return self._answer("nvmlGpmMetricsGet", question)


def make_reader(driver, clock, uuid=UUID):
    """A reader of one GPU of the driver, on the clock."""
    return GpuReader(Device(driver, uuid, uuid), monotonic=clock, driver_clock=clock.driver_clock())


def us(seconds):
    """Microseconds, as NVML stamps."""
    return round(seconds * 1e6)


def reasons_of(found):
    """Reading to reason."""
    return {item.reading: item.reason for item in found.unavailable}
