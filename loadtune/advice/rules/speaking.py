"""What do the rules share? Who stalls and how badly, and the numbers that several of them show."""

from typing import Literal

from loadtune.advice.case import Case, stall_ratio, taken_cores, used_cores, wanted_cores
from loadtune.advice.thresholds import MOST, SATURATED, SEVERE_STALL, STALL
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Evidence

Severity = Literal["warning", "advice", "info"]


def covers(stall: float, lost_ratio: float) -> bool:
    """Say whether a cause that took at most such a share of the time can be most of a stall."""
    return lost_ratio >= MOST.value * stall


def stalled(trial: TrialResult) -> float | None:
    """Return the stall ratio where the loader limits, else None."""
    stall = stall_ratio(trial)
    return stall if stall is not None and stall > STALL.value else None


def is_saturated(case: Case, cores: float) -> bool:
    """Say whether so many cores in use leave none for another worker."""
    return cores >= SATURATED.value * case.limits.usable_cores


def stall_severity(stall: float) -> Severity:
    """Return how loudly a stall is told."""
    return "warning" if stall >= SEVERE_STALL.value else "advice"


def cores_evidence(case: Case, cores: float) -> Evidence:
    """Return the cores in use beside those from which more workers only share them."""
    limit = SATURATED.value * case.limits.usable_cores
    return Evidence(name=SATURATED.name, value=cores, unit="cores", threshold=limit, source=SATURATED.source)


def plain(name: str, value: float, unit: str = "") -> Evidence:
    """Return a number that is held against nothing."""
    return Evidence(name=name, value=value, unit=unit)


def has_idle_cores(case: Case, trial: TrialResult) -> bool:
    """Say whether cores were seen to be idle: not used by others, nor used here or waited for by workers."""
    used, wanted = used_cores(trial), wanted_cores(case, trial)
    if used is None or wanted is None:
        return False
    return not is_saturated(case, max(wanted, used + taken_cores(case, trial)))
