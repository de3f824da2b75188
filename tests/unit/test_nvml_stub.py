"""What would a report say? The real pynvml over a scripted driver library, through session, sampler and trace.

The library is compiled here, from `tests/stubs/nvml_stub.c`, and lies on the path of one child process alone.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from loadtune.advice.case import Case
from loadtune.advice.rules import find
from loadtune.monitor.gpu_processes import HIDDEN, OTHER_NUMBERS
from loadtune.monitor.gpu_reader import MIG_HAS_NONE
from loadtune.monitor.nvml import MIG_UNKNOWN
from loadtune.records.resources import GpuInfo, Reading, ResourceTrace, Throttled, Unavailable
from loadtune.records.settings import Settings
from loadtune.render.readings import compose_missing
from tests.examples import environment
from tests.fake_driver import MIG_UUID, OTHER_UUID, UUID
from tests.fake_runner import complete_result
from tests.nvml_player import BOOT_AHEAD_S, EPOCH_S, OWN_PID, START_S

pytest.importorskip("pynvml")

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests/stubs/nvml_stub.c"
TOO_OLD = "the driver is too old for it"
UNSUPPORTED = "the GPU or its driver does not support it"
OTHER_MIG = MIG_UUID.replace("1", "2")

HEALTHY = f"""
gpu {UUID} NVIDIA_H100
set nvmlDeviceGetMemoryInfo {3 << 30}
set nvmlDeviceGetMemoryInfo_v2 {2 << 30}
set nvmlDeviceGetUtilizationRates 50
set nvmlDeviceGetPowerUsage 250000
set nvmlDeviceGetClockInfo 1755
set nvmlDeviceGetMaxClockInfo 1980
set nvmlDeviceGetCurrentClocksEventReasons 4
set nvmlDeviceGetCurrentClocksThrottleReasons 4
set nvmlDeviceGetCurrPcieLinkGeneration 4
set nvmlDeviceGetCurrPcieLinkGeneration 1 -100 1
set nvmlDeviceGetCurrPcieLinkWidth 16
set nvmlDeviceGetMaxPcieLinkGeneration 5
set nvmlDeviceGetMaxPcieLinkWidth 16
grow nvmlDeviceGetTotalEnergyConsumption 7000000 300000
field 74 5e9 4e8
field 75 1e9 0
field 76 0 0
field 77 0 0
field 79 0 0
field 197 1e12 1e9
field 198 1e12 2e9
metric 2 60
metric 3 30
metric 5 20
metric 10 45
process {OWN_PID} 60
"""
RING_FROM_S = -15.95
"""Between two readings, so that the newest sample is not taken at one: an unknown clock would show."""
JITTERY = f"ring {RING_FROM_S} 60 0.1666666667 100 100 100 0 0 0\n"
STEADY = "ring -16 60 0.1666666667 50\n"
BOOT = f"stamps {START_S + BOOT_AHEAD_S}\n"
NO_UTILISATION = "".join(
    f"refuse {name} 3\n"
    for name in ("nvmlDeviceGetSamples", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetProcessUtilization")
)

SCENARIOS = {
    "jittery": {"script": HEALTHY + JITTERY + BOOT + "process 99 30\n"},
    "steady": {"script": HEALTHY + STEADY + f"stamps {START_S + EPOCH_S}\n"},
    "own clock": {"script": HEALTHY + STEADY + "stamps 12345678\n"},
    "slow samples": {"script": HEALTHY + f"ring -16 60 1 100 0\nstamps {START_S}\n"},
    "mig": {
        "script": HEALTHY + STEADY + NO_UTILISATION + f"mig {MIG_UUID} 3\nmig {OTHER_MIG} 5\n",
        "uuid": f"GPU-{MIG_UUID.removeprefix('MIG-')}",
    },
    "mig, by the gpu's uuid": {
        "script": HEALTHY + NO_UTILISATION + f"mig {MIG_UUID} 3\nmig {OTHER_MIG} 5\n",
        "environ": {"CUDA_VISIBLE_DEVICES": OTHER_MIG},
    },
    "mig, which is not known": {"script": HEALTHY + f"mig {MIG_UUID} 3\nmig {OTHER_MIG} 5\n"},
    "idle": {"script": HEALTHY + "ring -16 0 0.1666666667 90\nset nvmlDeviceGetUtilizationRates 0\n" + BOOT},
    "no rows": {"script": HEALTHY.replace(f"process {OWN_PID} 60\n", "") + STEADY + BOOT},
    "forbidden readings": {
        "script": HEALTHY
        + STEADY
        + BOOT
        + "".join(
            f"refuse {name} 4\n"
            for name in (
                "nvmlDeviceGetPowerUsage",
                "nvmlDeviceGetTotalEnergyConsumption",
                "nvmlDeviceGetProcessUtilization",
                "nvmlGpmSampleGet",
            )
        )
    },
    "forbidden gpu": {"script": HEALTHY + STEADY + "refuse nvmlDeviceGetHandleByUUID 4\n"},
    "lost": {"script": HEALTHY + JITTERY + BOOT + "refuse * 15 8 1000\n"},
    "lost before": {"script": HEALTHY + JITTERY + BOOT + "refuse * 15 1 1000\n"},
    "passing error": {"script": HEALTHY + STEADY + BOOT + "refuse nvmlDeviceGetPowerUsage 10 6 7\n"},
    "container": {
        "script": HEALTHY.replace(f"process {OWN_PID}", "process 81234") + STEADY + BOOT + "process 555 20\n",
        "shares_pids": False,
    },
    "hidden processes": {
        "script": HEALTHY.replace(f"process {OWN_PID} 60\n", "") + STEADY + BOOT,
        "shares_pids": False,
    },
    "throttled": {"script": (HEALTHY + STEADY + BOOT).replace("field 75 1e9 0", "field 75 1e9 3e8")},
    "no driver": {"script": HEALTHY + "refuse nvmlInitWithFlags 18\n"},
    "two gpus": {
        "script": HEALTHY + f"gpu {OTHER_UUID} NVIDIA_H100\n" + STEADY + BOOT,
        "uuid": OTHER_UUID,
        "environ": {"CUDA_VISIBLE_DEVICES": f"{OTHER_UUID[:14]},{UUID[:14]}"},
    },
    "none shown": {"script": HEALTHY + STEADY + BOOT, "environ": {"CUDA_VISIBLE_DEVICES": ""}},
}


class Seen(msgspec.Struct):
    """What the player saw."""

    reason: str | None
    gpus: tuple[GpuInfo, ...]
    left_out: tuple[Unavailable, ...]
    trace: ResourceTrace
    readings: tuple[Reading, ...]

    @property
    def reasons(self):
        """Field of the trace to the reason why it is None."""
        return {item.reading: item.reason for item in self.trace.unavailable}


def play(folder, scenarios, *flags):
    """Compile the stub, play all scenarios in one child process, and return what was seen by name."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    library = folder / "libnvidia-ml.so.1"
    options = ["-shared", "-fPIC", *flags, f"-Wl,-soname,{library.name}", "-o", str(library)]
    built = subprocess.run([compiler, *options, str(SOURCE), "-lm"], capture_output=True, text=True, check=False)
    if built.returncode != 0 and "No such file" in built.stderr and ".h" in built.stderr:
        pytest.skip("no C headers")
    assert built.returncode == 0, built.stderr
    asked = {}
    for number, (name, scenario) in enumerate(scenarios.items()):
        script = folder / f"{number}.txt"
        script.write_text(scenario["script"])
        asked[name] = {"uuid": UUID, **scenario, "script": str(script)}
    (folder / "scenarios.json").write_text(json.dumps(asked))
    paths = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.nvml_player", str(folder / "scenarios.json")],
        env={**os.environ, **paths},
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=dict[str, Seen])


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    return play(tmp_path_factory.mktemp("nvml"), SCENARIOS)


@pytest.fixture(scope="module")
def played_old(tmp_path_factory):
    scenarios = {"healthy": {"script": "driver 470.1\n" + HEALTHY + JITTERY + BOOT}}
    return play(tmp_path_factory.mktemp("old"), scenarios, "-DOLD_DRIVER")


def findings(seen, stall):
    """What the rules say of a trial that was watched so, and whose steps waited for so much of the time."""
    plain = complete_result(Settings(num_workers=2, batch_size=16), 100.0)
    measurement = msgspec.structs.replace(plain.measurement, stall_ratio=stall)
    trial = complete_result(plain.settings, 100.0, measurement=measurement, trace=seen.trace)
    case = Case(chosen=trial, baseline=None, limits=environment().limits, device="cuda")
    return {finding.rule: finding for finding in find(case)}


def test_every_reading_of_a_healthy_gpu_is_a_number(played):
    """Jitter too, on a clock that counts from boot; another process is counted."""
    seen = played["jittery"]
    assert seen.trace.utilisation_mean_ratio == pytest.approx(0.5, abs=0.01)
    assert seen.trace.jitter_ratio == pytest.approx(0.5, abs=0.01)
    places = [(sample.at_s - RING_FROM_S) * 6 for sample in seen.trace.gpu]
    assert places == pytest.approx([round(place) for place in places], abs=0.01)
    use = seen.trace.gpu_use
    assert (use.energy_j, use.mean_power_w) == (pytest.approx(3000, rel=1e-3), pytest.approx(300, rel=1e-3))
    assert use.throttled == (Throttled(cause="power_cap", ratio=pytest.approx(0.4, rel=1e-3)),)
    assert (use.pcie_tx_bytes_per_s, use.pcie_rx_bytes_per_s) == (pytest.approx(1e9), pytest.approx(2e9))
    assert (use.pcie_generation, use.pcie_width) == (4, 16)
    assert (use.sm_active_ratio, use.sm_occupancy_ratio) == (pytest.approx(0.6), pytest.approx(0.3))
    assert (use.tensor_active_ratio, use.dram_active_ratio) == (pytest.approx(0.2), pytest.approx(0.45))
    assert (use.other_processes, use.other_sm_ratio) == (1, pytest.approx(0.3))
    state = seen.trace.gpu_states[5]
    assert (state.memory_bytes, state.power_w, state.sm_clock_mhz) == (2 << 30, 250.0, 1755)
    assert state.throttle_reasons == ("sw_power_cap",)
    assert not {name for name in seen.reasons if "gpu" in name or "utilisation" in name}
    assert [reading.name for reading in seen.readings if "GPU" in reading.name and not reading.is_available] == []


def test_what_a_healthy_gpu_is(played):
    """Its identity, its link, and the index that CUDA gives it."""
    (found,) = played["jittery"].gpus
    assert (found.uuid, found.name, found.driver, found.memory_bytes) == (UUID, "NVIDIA_H100", "580.95.05", 80 << 30)
    assert (found.max_sm_clock_mhz, found.pcie_max_generation, found.pcie_max_width) == (1980, 5, 16)
    assert (found.cuda_index, found.mig_uuids) == (0, ())


def test_jitter_is_believed_only_with_the_steps(played):
    """The same samples, with and without a stall."""
    assert findings(played["jittery"], 0.4)["jittery-gpu"].severity == "advice"
    assert findings(played["jittery"], 0.0)["jittery-gpu"].severity == "info"
    assert findings(played["jittery"], 0.0)["shared-gpu"].severity == "warning"


def test_steady_and_low_is_no_jitter(played):
    """On a clock that counts from the epoch, on one of the driver's own, and sampled once a second."""
    for name in ("steady", "own clock"):
        assert played[name].trace.utilisation_mean_ratio == pytest.approx(0.5)
        assert played[name].trace.jitter_ratio == pytest.approx(0.0)
    assert "low-steady-gpu" in findings(played["steady"], 0.0)
    slow = played["slow samples"].trace
    assert (slow.utilisation_mean_ratio, slow.jitter_ratio) == (pytest.approx(0.5), pytest.approx(0.527, abs=0.01))
    assert len(slow.gpu) == pytest.approx(16, abs=1)


def test_a_mig_instance_has_no_utilisation_and_says_so(played):
    """Memory and performance metrics are its own; it is found although torch calls it a GPU."""
    for name in ("mig", "mig, by the gpu's uuid"):
        seen = played[name]
        assert (seen.trace.utilisation_mean_ratio, seen.trace.jitter_ratio) == (None, None)
        assert seen.reasons["utilisation_mean_ratio"] == seen.reasons["jitter_ratio"] == MIG_HAS_NONE
        assert seen.trace.gpu_states[0].memory_bytes == 2 << 30
        assert seen.trace.gpu_use.sm_active_ratio == pytest.approx(0.6)
        assert seen.reasons["gpu_use.other_sm_ratio"] == UNSUPPORTED
        assert seen.gpus[0].mig_uuids == (MIG_UUID, OTHER_MIG)
        assert not {"jittery-gpu", "low-steady-gpu"} & findings(seen, 0.4).keys()
        assert compose_missing(seen.readings)[0].startswith(
            f"GPU utilisation (NVML): not available: {MIG_HAS_NONE}. What that costs: jitter cannot be shown"
        )


def test_which_mig_instance_is_not_guessed(played):
    """No numbers of the whole GPU stand for one of several instances."""
    seen = played["mig, which is not known"]
    assert (seen.trace.gpu_use, seen.trace.gpu_states) == (None, ())
    assert seen.reasons["gpu_use"] == seen.reasons["utilisation_mean_ratio"] == f"{UUID}: {MIG_UNKNOWN}"


def test_an_idle_gpu_is_at_zero_not_missing(played):
    """Its ring is dry, so the current rate stands in."""
    seen = played["idle"]
    assert (seen.trace.utilisation_mean_ratio, seen.trace.jitter_ratio) == (0.0, 0.0)
    assert "utilisation_mean_ratio" not in seen.reasons


def test_process_utilisation_without_rows_is_nobody(played):
    """Success with zero rows, which pynvml raises as value 0; an empty list of processes is no proof, and says so."""
    seen = played["no rows"]
    assert seen.trace.gpu_use.other_sm_ratio == 0.0
    assert (seen.trace.gpu_use.other_processes, seen.reasons["gpu_use.other_processes"]) == (None, HIDDEN)
    assert "shared-gpu" not in findings(seen, 0.0)


def test_forbidden_readings_are_missing_and_the_others_are_not(played):
    """One reason each; utilisation stays."""
    seen = played["forbidden readings"]
    use, why = seen.trace.gpu_use, "the driver gives no permission"
    assert (use.energy_j, use.mean_power_w, use.sm_active_ratio, use.other_sm_ratio) == (None, None, None, None)
    for name in ("energy_j", "mean_power_w", "sm_active_ratio", "dram_active_ratio", "other_sm_ratio"):
        assert seen.reasons[f"gpu_use.{name}"] == why
    assert seen.reasons["gpu_states.power_w"] == why
    assert seen.trace.utilisation_mean_ratio == pytest.approx(0.5)
    assert use.throttled != ()
    assert any("GPU energy (NVML): not available: the driver gives no permission" in line for line in missing(seen))


def missing(seen):
    return compose_missing(seen.readings)


def test_a_forbidden_gpu_is_one_reason(played):
    """For utilisation and for all of its use."""
    seen = played["forbidden gpu"]
    why = f"{UUID}: the driver gives no permission"
    assert seen.trace.gpu_use is None
    assert seen.reasons["utilisation_mean_ratio"] == seen.reasons["gpu_use"] == why


def test_an_old_driver_is_read_by_what_it_has(played_old):
    """Old names where there are some, and a reason for each function that is missing."""
    seen = played_old["healthy"]
    assert seen.gpus[0].driver == "470.1"
    assert seen.trace.jitter_ratio == pytest.approx(0.5, abs=0.01)
    state = seen.trace.gpu_states[0]
    assert (state.memory_bytes, state.throttle_reasons) == (3 << 30, ("sw_power_cap",))
    use = seen.trace.gpu_use
    assert (use.mean_power_w, use.pcie_generation, use.other_processes) == (pytest.approx(250.0), 4, 0)
    for name in ("energy_j", "throttled", "pcie_rx_bytes_per_s", "pcie_tx_bytes_per_s", "sm_active_ratio"):
        assert getattr(use, name) is None
        assert seen.reasons[f"gpu_use.{name}"] == TOO_OLD
    assert "gpu_use.other_processes" not in seen.reasons


def test_a_gpu_that_is_lost_in_the_middle_leaves_what_was_seen(played):
    """And the loss is named beside it; what needs both ends of the interval has the loss as its reason."""
    seen = played["lost"]
    lost = "the GPU is lost: it fell off the bus or has an error"
    assert seen.trace.utilisation_mean_ratio == pytest.approx(0.5, abs=0.05)
    assert seen.reasons["gpu"] == lost
    assert (seen.trace.gpu_use.energy_j, seen.reasons["gpu_use.energy_j"]) == (None, lost)
    assert seen.trace.gpu_use.pcie_generation == 4
    before = played["lost before"]
    assert (before.trace.utilisation_mean_ratio, before.reasons["utilisation_mean_ratio"]) == (None, lost)


def test_a_passing_error_costs_one_look(played):
    """No reason is left behind."""
    seen = played["passing error"]
    looks = [state.power_w for state in seen.trace.gpu_states]
    assert looks.count(None) == 1
    assert "gpu_states.power_w" not in seen.reasons


def test_in_a_container_others_are_counted_and_not_named(played):
    """The driver's numbers are the host's: 81234 is ours, which cannot be known."""
    seen = played["container"]
    assert seen.trace.gpu_use.other_processes == 1
    assert (seen.trace.gpu_use.other_sm_ratio, seen.reasons["gpu_use.other_sm_ratio"]) == (None, OTHER_NUMBERS)
    assert findings(seen, 0.0)["shared-gpu"].severity == "info"
    hidden = played["hidden processes"]
    assert (hidden.trace.gpu_use.other_processes, hidden.reasons["gpu_use.other_processes"]) == (None, HIDDEN)


def test_heat_is_told_by_the_counter_although_no_look_met_it(played):
    """A power cap alone is no fault."""
    assert "throttled-gpu" not in findings(played["steady"], 0.0)
    found = findings(played["throttled"], 0.0)["throttled-gpu"]
    assert found.evidence[0].value == pytest.approx(0.3, rel=1e-3)


def test_no_session_is_one_reason_everywhere(played):
    """As where library and kernel driver differ after an update."""
    seen = played["no driver"]
    assert "different versions" in seen.reason
    assert seen.gpus == ()
    assert seen.reasons["utilisation_mean_ratio"] == seen.reasons["gpu_use"] == seen.reason
    assert len(missing(seen)) >= 6


def test_several_gpus_are_told_apart_by_uuid(played):
    """The trial's own is read, and both have the indices that the variable gives them."""
    seen = played["two gpus"]
    assert [(gpu.uuid, gpu.cuda_index) for gpu in seen.gpus] == [(UUID, 1), (OTHER_UUID, 0)]
    assert seen.trace.utilisation_mean_ratio == pytest.approx(0.5)
    assert [gpu.cuda_index for gpu in played["none shown"].gpus] == [None]
