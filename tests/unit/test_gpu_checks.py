"""What is said of the driver and of each GPU."""

from dataclasses import replace

import msgspec
import pytest

from loadtune.doctor.gpu_checks import (
    DRIVER_CHECKS,
    GPU_CHECKS,
    IDLE_MEMORY_BYTES,
    IDLE_UTILISATION_RATIO,
    clocks,
    compute_mode,
    device,
    driver,
    gpu_readings,
    launch_blocking,
    left_out,
    mig,
    order_setting,
    persistence,
    users,
    visible_devices,
)
from loadtune.monitor.gpu_inspection import Driver
from loadtune.records.diagnosis import Severity
from loadtune.records.resources import Unavailable
from loadtune.records.verification import Reading
from tests import machines
from tests.machines import DRIVER, GPU, HOST, NO_DRIVER, gpu, healthy

OK, UNKNOWN, NOTE, WARNING, ERROR = Severity
NO_LIBRARY = NO_DRIVER.reason


def settings(**chosen: str):
    """Return the healthy machine with environment variables set."""
    return healthy(host=replace(HOST, settings=chosen))


def test_a_healthy_gpu_is_fine_in_three_lines() -> None:
    """Driver, device, readings; of the rest nothing is said."""
    lines = [check(healthy()) for check in DRIVER_CHECKS] + [check(healthy(), GPU) for check in GPU_CHECKS]
    assert [(line.check, line.severity) for line in lines if line is not None] == [
        ("driver", OK),
        ("gpu", OK),
        ("gpu-readings", OK),
    ]


@pytest.mark.parametrize(
    ("found", "severity", "said"),
    [
        (DRIVER, OK, "580.95.05, CUDA up to 13.0; 1 GPU"),
        (replace(DRIVER, gpus=(GPU, GPU), cuda_version=None, version=None), OK, "of unknown version; 2 GPUs"),
        (NO_DRIVER, NOTE, "no NVIDIA GPU here"),
        (Driver(reason=NO_LIBRARY, has_pci=True), WARNING, "on the PCI bus"),
        (Driver(reason=NO_LIBRARY, has_pci=True, has_node=True), ERROR, "/dev/nvidiactl, but libnvidia-ml.so.1"),
        (Driver(reason=None, has_node=True), ERROR, "NVML finds no GPU"),
        (
            Driver(reason=None, has_node=True, left_out=(Unavailable(reading="gpus[0]", reason="no permission"),)),
            ERROR,
            "but gpus[0]: no permission",
        ),
        (Driver(reason=None), NOTE, "NVML finds no GPU"),
    ],
)
def test_a_missing_driver_is_told_from_a_missing_gpu(found, severity, said) -> None:
    """What is on the bus and in /dev says which; a machine without a GPU is in order."""
    line = driver(healthy(driver=found))
    assert line.severity is severity
    assert said in (line.found or "")


def test_gpus_that_may_not_be_asked_about_are_named() -> None:
    """Beside others that may; where there is no driver, that is what is said."""
    refused = (Unavailable(reading="gpus[1]", reason="the driver gives no permission"),)
    line = left_out(machines.driver(left_out=refused))
    assert line is not None
    assert line.severity is UNKNOWN
    assert line.reason == "gpus[1]: the driver gives no permission"
    assert left_out(healthy()) is None
    assert left_out(healthy(driver=replace(NO_DRIVER, left_out=refused))) is None


@pytest.mark.parametrize(
    ("chosen", "severity"),
    [("0", OK), ("2,3", WARNING), ("GPU-8c1a", OK), ("", WARNING), ("-1", WARNING), ("-1,0", WARNING), ("0,-1", OK)],
)
def test_a_variable_that_hides_every_gpu_is_warned_of(chosen, severity) -> None:
    """What comes after the first invalid entry is not seen by CUDA."""
    line = visible_devices(settings(CUDA_VISIBLE_DEVICES=chosen))
    assert line is not None
    assert line.severity is severity


def test_a_variable_may_name_what_this_process_may_not_ask_about() -> None:
    """Of two GPUs one is refused: CUDA's second index is there all the same."""
    refused = (Unavailable(reading="gpus[1]", reason="the driver gives no permission"),)
    here = settings(CUDA_VISIBLE_DEVICES="1")
    line = visible_devices(replace(here, driver=replace(here.driver, left_out=refused)))
    assert line is not None
    assert line.severity is OK


def test_variables_say_nothing_where_they_are_not_set_or_there_is_no_gpu() -> None:
    """None of them is needed."""
    assert visible_devices(healthy()) is None
    hidden = settings(CUDA_VISIBLE_DEVICES="")
    assert visible_devices(replace(hidden, driver=NO_DRIVER)) is None


@pytest.mark.parametrize(("chosen", "is_warned"), [("1", True), ("0", False), ("", False)])
def test_launches_that_block_are_warned_of(chosen, is_warned) -> None:
    """Left behind by somebody who looked for an error."""
    line = launch_blocking(settings(CUDA_LAUNCH_BLOCKING=chosen))
    assert (line is not None and line.severity is WARNING) is is_warned


def test_order_matters_among_gpus_of_several_kinds() -> None:
    """CUDA counts the fastest first; among equals it follows the bus."""
    other = replace(GPU, index=1, info=msgspec.structs.replace(GPU.info, name="NVIDIA T4"))
    mixed = machines.driver(gpus=(GPU, other))
    line = order_setting(mixed)
    assert line is not None
    assert line.severity is NOTE
    assert order_setting(machines.driver(gpus=(GPU, GPU))) is None
    by_bus = replace(HOST, settings={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert order_setting(replace(mixed, host=by_bus)) is None


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({}, None, ""),
        ({"processes": 1, "used_bytes": 31 << 30}, WARNING, "1 other process, 31.0 GiB in use"),
        ({"processes": 2, "used_bytes": None}, WARNING, "2 other processes"),
        ({"used_bytes": IDLE_MEMORY_BYTES}, None, ""),
        ({"used_bytes": IDLE_MEMORY_BYTES + 1}, WARNING, "by programs not seen here"),
        ({"utilisation_ratio": IDLE_UTILISATION_RATIO}, None, ""),
        ({"utilisation_ratio": 0.06}, WARNING, "busy 6 % of the time already"),
        ({"processes": None}, UNKNOWN, "does not list"),
        ({"processes": None, "used_bytes": 2 << 30}, WARNING, "2.00 GiB"),
    ],
)
def test_others_are_seen_by_number_memory_and_time(changes, severity, said) -> None:
    """A container sees no process of others, yet its memory and time."""
    line = users(healthy(), gpu(**changes))
    assert (None if line is None else line.severity) is severity
    assert line is None or said in f"{line.found} {line.reason}"
    shown = device(healthy(), gpu(**changes)).found or ""
    assert ("nobody else" in shown) is (line is None)


@pytest.mark.parametrize(
    ("is_on", "is_pending", "severity"),
    [(False, False, None), (None, None, None), (True, True, NOTE), (False, True, NOTE)],
)
def test_mig_is_told_where_it_is_or_will_be(is_on, is_pending, severity) -> None:
    """A GPU from before Ampere knows no MIG."""
    line = mig(healthy(), gpu(is_mig=is_on, is_mig_pending=is_pending))
    assert (None if line is None else line.severity) is severity


@pytest.mark.parametrize(("mode", "severity"), [(None, None), (0, None), (2, ERROR), (3, WARNING)])
def test_compute_modes_that_refuse_processes_are_told(mode, severity) -> None:
    """The command names the GPU."""
    line = compute_mode(healthy(), gpu(index=3, compute_mode=mode))
    assert (None if line is None else line.severity) is severity
    assert line is None or (line.gpu == 3 and "-i 3" in (line.fix or ""))


@pytest.mark.parametrize(("is_persistent", "severity"), [(None, None), (True, None), (False, NOTE)])
def test_persistence_mode_is_a_note_where_it_is_off(is_persistent, severity) -> None:
    """Not known is not off."""
    line = persistence(healthy(), gpu(is_persistent=is_persistent))
    assert (None if line is None else line.severity) is severity


@pytest.mark.parametrize(
    ("reasons", "severity"),
    [
        ((), None),
        (("idle", "sw_power_cap"), None),
        (("hw_thermal",), WARNING),
        (("idle", "hw_slowdown"), WARNING),
        (None, UNKNOWN),
    ],
)
def test_heat_and_power_are_warned_of(reasons, severity) -> None:
    """A power cap is where loaded GPUs sit."""
    line = clocks(healthy(), gpu(throttle_reasons=reasons))
    assert (None if line is None else line.severity) is severity


def test_readings_are_listed_one_by_one() -> None:
    """One that no probe uses may lack; one that it uses costs something."""
    unused = Reading(name="energy", is_available=False, reason="too old", cost="nothing", is_needed=False)
    used = Reading(name="power", is_available=False, reason="no permission", cost="heat is missed", is_needed=True)
    line = gpu_readings(healthy(), gpu(readings=(GPU.readings[0], unused)))
    assert (line.severity, line.found) == (OK, "utilisation; no energy (too old)")
    line = gpu_readings(healthy(), gpu(readings=(used, unused)))
    assert (line.severity, line.why) == (NOTE, "heat is missed")
    assert line.found == "none; no power (no permission); no energy (too old)"
    same = replace(GPU, readings=(used, msgspec.structs.replace(unused, reason="no permission")))
    assert gpu_readings(healthy(), same).found == "none; no power, energy (no permission)"
