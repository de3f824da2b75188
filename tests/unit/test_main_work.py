"""How much of a busy main process is work? A process that waits for CUDA turns on its core."""

import math

import msgspec
import pytest

from loadtune.advice.case import main_work_cores, main_work_s
from tests.examples import complete, settings


def with_cpu(trial, **measured):
    """The trial with these readings, and a main process that kept one core busy."""
    trace = msgspec.structs.replace(trial.trace, mean_main_cores=0.98)
    return msgspec.structs.replace(
        trial, measurement=msgspec.structs.replace(trial.measurement, **measured), trace=trace
    )


LOADER = with_cpu(complete(1, settings(1, 16), 32.8, role="loader", stall_ratio=None), main_cpu_s_per_sample=0.0005)
STALLED = with_cpu(complete(2, settings(4, 16), 120.0, stall_ratio=0.28), launch_cpu_s=0.036)
FED = with_cpu(complete(3, settings(6, 16), 165.0, stall_ratio=0.0), launch_cpu_s=0.057)
"""As an H100 showed: the fed loop seems to launch for longer, since the queue is full."""


def test_waiting_is_left_out_by_what_was_seen_apart_from_it():
    """Taking from the loader alone, launching from the trial whose queue was empty most."""
    assert main_work_s([LOADER, STALLED, FED]) == pytest.approx(0.0005 + 0.036 / 16)
    assert main_work_cores(FED, [LOADER, STALLED, FED]) == pytest.approx(165 * (0.0005 + 0.036 / 16))


def test_real_work_stays():
    """A main process that works all the time is busy by this count too."""
    costly = with_cpu(LOADER, main_cpu_s_per_sample=0.02)
    assert main_work_cores(FED, [costly, STALLED, FED]) == pytest.approx(0.98)


def test_without_a_look_apart_the_busy_cores_stand():
    """Nothing is taken off on a guess; and what was not read is None."""
    assert main_work_s([FED]) == math.inf
    assert main_work_cores(FED, [FED]) == pytest.approx(0.98)
    assert main_work_cores(msgspec.structs.replace(FED, trace=None), [LOADER, FED]) is None
