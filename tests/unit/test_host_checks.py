"""What is said of processors and memory, just above each threshold and just below it, and without the reading."""

import pytest

from loadtune.doctor.host_checks import (
    HOST_CHECKS,
    MEMORY_MIN_BYTES,
    SHM_FREE_MIN_BYTES,
    SHM_FULL_BYTES,
    cores,
    count_usable_cores,
    foreign_load,
    free_page_reporting,
    memory,
    oom_group,
    shared_memory,
    swap,
    throttling,
)
from loadtune.monitor.cgroup import Throttling
from loadtune.monitor.hazards import SHM_MIN_BYTES, SWAP_USED_MAX_BYTES, find_hazards
from loadtune.records.diagnosis import Severity
from tests.machines import GIB, LIMITS, MIB, healthy, host

OK, UNKNOWN, NOTE, WARNING, ERROR = Severity


def test_a_healthy_machine_is_fine() -> None:
    """Every line is ok, and what does not apply is left out."""
    lines = [check(healthy()) for check in HOST_CHECKS]
    assert {line.severity for line in lines if line is not None} == {OK}
    assert lines.count(None) == 2


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({}, OK, "8 usable: 8 in the affinity mask, no quota; os.cpu_count() says 8"),
        ({"quota_cores": 8.0}, OK, "a quota of 8"),
        ({"quota_cores": 7.98, "usable_cores": 7.98}, WARNING, "7 usable"),
        ({"quota_cores": 7.995, "usable_cores": 7.995}, OK, "8 usable"),
        ({"quota_cores": 0.5, "usable_cores": 0.5}, WARNING, "1 usable"),
        ({"affinity_cores": 4, "usable_cores": 4.0}, NOTE, "4 usable: 4 in the affinity mask"),
        ({"affinity_cores": 1, "usable_cores": 1.0}, WARNING, "1 usable"),
        ({"affinity_cores": 1, "usable_cores": 1.0, "cpu_count": 1}, OK, "says 1"),
        ({"cpu_count": None}, OK, "does not know"),
        ({"affinity_cores": 1, "usable_cores": 1.0, "cpu_count": None}, OK, "does not know"),
    ],
)
def test_cores_are_told_against_what_python_counts(changes, severity, said) -> None:
    """A quota, a mask and neither; os.cpu_count() sees none of them."""
    line = cores(host(**changes))
    assert line.severity is severity
    assert said in (line.found or "")


@pytest.mark.parametrize(("usable", "whole"), [(0.2, 1), (1.0, 1), (1.989, 1), (1.995, 2), (3.5, 3), (64.0, 64)])
def test_usable_cores_are_whole_and_at_least_one(usable, whole) -> None:
    """A quota of 3.5 has room for three busy processes."""
    assert count_usable_cores(host(usable_cores=usable).host.machine.limits) == whole


@pytest.mark.parametrize(
    ("quota", "counted", "severity"),
    [
        (None, None, None),
        (4.0, None, UNKNOWN),
        (4.0, Throttling(0, 0), OK),
        (4.0, Throttling(1000, 99), OK),
        (4.0, Throttling(1000, 100), WARNING),
    ],
)
def test_throttling_is_told_where_there_is_a_quota(quota, counted, severity) -> None:
    """A group that never ran was never held back."""
    line = throttling(host(quota_cores=quota, throttling=counted))
    assert (None if line is None else line.severity) is severity


@pytest.mark.parametrize(("foreign", "severity"), [(None, UNKNOWN), (0.8, OK), (0.81, WARNING)])
def test_the_load_of_others_is_judged_as_reports_do(foreign, severity) -> None:
    """A tenth of the usable cores."""
    line = foreign_load(host(foreign_cores=foreign))
    assert line.severity is severity
    warned = find_hazards(LIMITS, foreign_cores=foreign, swap_used_bytes=0, file_system=None)
    assert bool(warned) is (severity is WARNING)


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({}, OK, "60.0 GiB of 64.0 GiB available"),
        ({"memory_total_bytes": None}, OK, "64.0 GiB"),
        ({"memory_available_bytes": MEMORY_MIN_BYTES}, OK, "2.00 GiB"),
        ({"memory_available_bytes": MEMORY_MIN_BYTES - 1}, WARNING, "2.00 GiB"),
        ({"memory_limit_bytes": 64 * GIB - 1}, NOTE, "a control group sets that limit"),
        ({"memory_limit_bytes": 8 * GIB, "memory_available_bytes": GIB}, WARNING, "the machine has 64.0 GiB"),
    ],
)
def test_memory_is_told_with_its_limit(changes, severity, said) -> None:
    """Short memory is worse than a limit."""
    line = memory(host(**changes))
    assert line.severity is severity
    assert said in (line.found or "")


@pytest.mark.parametrize(("limit", "fix"), [(8 * GIB, "end what holds"), (MEMORY_MIN_BYTES, "raise the limit")])
def test_a_limit_that_is_too_low_is_to_be_raised(limit, fix) -> None:
    """No program holds what the limit never gave."""
    assert fix in (memory(host(memory_limit_bytes=limit, memory_available_bytes=GIB)).fix or "")


@pytest.mark.parametrize(
    ("changes", "severity"),
    [({}, OK), ({"memory_oom_group": True}, WARNING), ({"has_memory_group": False}, UNKNOWN)],
)
def test_oom_group_is_unknown_without_control_groups(changes, severity) -> None:
    """Nothing seen is not nothing set."""
    assert oom_group(host(**changes)).severity is severity


@pytest.mark.parametrize(
    ("total", "used", "severity"),
    [
        (None, None, UNKNOWN),
        (0, 0, OK),
        (GIB, SWAP_USED_MAX_BYTES, OK),
        (GIB, SWAP_USED_MAX_BYTES + 1, WARNING),
    ],
)
def test_swap_in_use_is_warned_of(total, used, severity) -> None:
    """Swap that lies idle is fine."""
    assert swap(host(swap_total_bytes=total, swap_used_bytes=used)).severity is severity


@pytest.mark.parametrize(
    ("total", "free", "has_shm", "severity", "said"),
    [
        (SHM_MIN_BYTES, SHM_MIN_BYTES, True, OK, "1.00 GiB of 1.00 GiB free"),
        (SHM_MIN_BYTES - 1, SHM_MIN_BYTES - 1, True, WARNING, "in all"),
        (64 * MIB, 64 * MIB, True, WARNING, "64.0 MiB in all, 64.0 MiB free"),
        (GIB, SHM_FREE_MIN_BYTES, True, OK, "64.0 MiB of 1.00 GiB free"),
        (GIB, SHM_FREE_MIN_BYTES - 1, True, WARNING, "64.0 MiB of 1.00 GiB free"),
        (64 * MIB, SHM_FULL_BYTES, True, WARNING, "in all"),
        (64 * MIB, SHM_FULL_BYTES - 1, True, ERROR, "free"),
        (None, None, True, WARNING, "not a mount"),
        (None, None, False, ERROR, "not there"),
    ],
)
def test_shared_memory_is_there_large_and_free(total, free, has_shm, severity, said) -> None:
    """Small, full, no mount, and not there at all are different troubles."""
    line = shared_memory(host(shm_total_bytes=total, shm_free_bytes=free, has_shm=has_shm))
    assert line.severity is severity
    assert said in (line.found or "")


def test_free_page_reporting_is_a_note_where_it_is() -> None:
    """Most machines do not hand memory back."""
    assert free_page_reporting(host(returns_memory=False)) is None
    line = free_page_reporting(host(returns_memory=True))
    assert line is not None
    assert line.severity is NOTE
