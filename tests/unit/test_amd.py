"""AMD's driver behind the same door, by a scripted module: nothing here has met an AMD GPU."""

import sys
from types import SimpleNamespace

import pytest

from loadtune.monitor import gpu
from loadtune.monitor.amd import NOT_GIVEN, NOT_READ, AmdReader
from loadtune.monitor.nvml import Nvml
from loadtune.monitor.sampler import Sampler
from tests.fake_driver import Clock, reasons_of

SERIAL = "67e0a25cebf3819a"
HIP_UUID = "36376530-6132-3563-6562-663338313961"
"""As torch writes it: the letters of the serial, in hexadecimal."""


class AmdSmiException(Exception):
    """What every call of amdsmi raises."""


class FakeAmd:
    """Stands for the module amdsmi. `answers` holds what a function gives; None: it raises."""

    AmdSmiException = AmdSmiException
    AmdSmiClkType = SimpleNamespace(GFX="gfx")

    def __init__(self, serials=(SERIAL,)):
        self.serials = list(serials)
        self.is_open = False
        self.answers = {
            "amdsmi_get_gpu_activity": {"gfx_activity": 63, "umc_activity": 10, "mm_activity": "N/A"},
            "amdsmi_get_gpu_vram_usage": {"vram_total": 65_536, "vram_used": 2048},
            "amdsmi_get_power_info": {"average_socket_power": "N/A", "current_socket_power": 410},
            "amdsmi_get_clock_info": {"clk": 1700, "max_clk": 2100},
            "amdsmi_get_gpu_metrics_info": {"throttle_status": False},
            "amdsmi_get_gpu_driver_info": {"driver_name": "amdgpu", "driver_version": "6.8.5"},
        }

    def amdsmi_init(self):
        self.is_open = True

    def amdsmi_shut_down(self):
        self.is_open = False

    def amdsmi_get_processor_handles(self):
        return list(range(len(self.serials)))

    def amdsmi_get_gpu_asic_info(self, handle):
        return {"market_name": "AMD Instinct MI300X", "asic_serial": self.serials[handle]}

    def __getattr__(self, name):
        if not name.startswith("amdsmi_get_"):
            raise AttributeError(name)

        def call(*arguments):
            if self.answers.get(name) is None:
                raise AmdSmiException(name)
            return self.answers[name]

        return call


@pytest.fixture
def amd(monkeypatch):
    """No NVIDIA binding, and AMD's driver there."""
    fake = FakeAmd()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "amdsmi", fake)
    return fake


def test_the_same_session_reads_amd_where_there_is_no_nvidia_driver(amd):
    """Opened and closed once; memory in bytes."""
    nvml = Nvml.open()
    assert (nvml.reason, amd.is_open) == (None, True)
    (found,) = nvml.gpus()
    assert (found.uuid, found.name, found.driver) == (f"GPU-{SERIAL}", "AMD Instinct MI300X", "6.8.5")
    assert found.memory_bytes == 64 << 30
    nvml.close()
    assert not amd.is_open
    assert nvml.gpus() == ()


def test_a_gpu_is_found_by_the_uuid_that_torch_gives(amd):
    """The serial's letters in hexadecimal, or the serial as the driver writes it; among several never another."""
    amd.serials = ["0x1111111111111111", f"0x{SERIAL.upper()}"]
    nvml = Nvml.open()
    for uuid in (f"GPU-{HIP_UUID}", f"GPU-{SERIAL}"):
        amd.answers["amdsmi_get_power_info"] = {"average_socket_power": 100}
        assert nvml.device(uuid).read_state().power_w == 100.0
    assert nvml.device("GPU-elsewhere") is None
    assert "knows no such GPU" in nvml.refusal
    amd.serials = ["N/A"]
    assert nvml.device("GPU-elsewhere") is not None  # the only one


def test_readings_in_our_units_and_a_reason_for_each_that_is_not_there(amd):
    """Percent become shares, MiB bytes; what loadtune does not ask AMD for says so."""
    found = AmdReader(amd, 0, "GPU-1", Clock())
    assert found.drain_utilisation() == [(1000.0, 0.63)]
    state = found.read_state()
    assert (state.memory_bytes, state.power_w, state.sm_clock_mhz) == (2 << 30, 410.0, 1700)
    assert state.throttle_reasons == ()
    given = {gpu.UTILISATION, gpu.MEMORY, gpu.POWER, gpu.SM_CLOCK, gpu.THROTTLE}
    assert reasons_of(found) == dict.fromkeys(set(gpu.READINGS) - given, NOT_READ)
    amd.answers["amdsmi_get_gpu_metrics_info"] = {"throttle_status": True}
    assert found.read_state().throttle_reasons == ("throttled",)
    found.close()


@pytest.mark.parametrize("answer", [None, {"gfx_activity": "N/A"}, {"gfx_activity": 65_535}])
def test_what_amd_does_not_give_is_none_with_its_reason(amd, answer):
    """A refusal, its own "N/A", and the largest number, which stands for the same."""
    amd.answers["amdsmi_get_gpu_activity"] = answer
    found = AmdReader(amd, 0, "GPU-1", Clock())
    assert found.drain_utilisation() == []
    assert reasons_of(found)[gpu.UTILISATION] == NOT_GIVEN


def test_an_installed_amdsmi_without_its_library_is_no_driver(monkeypatch):
    """Its import raises whatever the search for the library raises; NVIDIA's reason is the one that is told."""
    monkeypatch.setitem(sys.modules, "pynvml", None)

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "amdsmi":
                raise KeyError("ROCM_PATH")

    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    assert Nvml.open().reason == "the package nvidia-ml-py is not installed"


def test_a_trace_of_an_amd_gpu(amd):
    """Through the sampler, as a probe watches: utilisation and power are there, the rest has its reason."""
    sampler = Sampler((), Nvml.open(), trees=(), shares_pids=False)
    sampler.use_gpu(f"GPU-{HIP_UUID}")
    for _ in range(2):
        sampler.tick(is_last=True)
    trace = sampler.stop()
    reasons = reasons_of(trace)
    assert trace.utilisation_mean_ratio == pytest.approx(0.63)
    assert (trace.gpu_use.mean_power_w, trace.gpu_use.throttled) == (pytest.approx(410.0), None)
    assert reasons["gpu_use.throttled"] == NOT_READ
    assert "gpu" not in reasons
