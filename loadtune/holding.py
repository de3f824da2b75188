"""What does the calling script itself hold while trials run, so that they must do without it?

A model that lies on the GPU already, and the training's workers while its validation is measured.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from loadtune.advice.feasibility import WORKER_BYTES, shm_size_bytes
from loadtune.monitor.tree import TreeReader
from loadtune.records.measurement import TrialResult
from loadtune.records.report import Report
from loadtune.records.resources import HostLimits
from loadtune.records.settings import Settings
from loadtune.render.words import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Memory that is not the trials'."""

    memory_bytes: int = 0
    """Host memory of the training's workers."""
    shm_bytes: int = 0
    """Their batches in /dev/shm."""
    device_bytes: int = 0
    """Memory of the GPU."""


def set_aside(held: Held, limits: HostLimits) -> HostLimits:
    """Return the limits without the host memory that is held."""
    free = limits.shm_free_bytes
    return msgspec.structs.replace(
        limits,
        memory_available_bytes=max(0, limits.memory_available_bytes - held.memory_bytes),
        shm_free_bytes=None if free is None else max(0, free - held.shm_bytes),
    )


def describe_held(held: Held) -> list[str]:
    """Say what trials had to leave to the script, each as what and hint."""
    told = list[str]()
    if held.memory_bytes or held.shm_bytes:
        told.append(
            f"{format_bytes(held.memory_bytes)} of memory and {format_bytes(held.shm_bytes)} of /dev/shm were set "
            "aside for the training's own workers, which may live on while validating\n"
            "they are idle then, so the cores were not divided"
        )
    if held.device_bytes:
        told.append(
            f"this script holds {format_bytes(held.device_bytes)} of the GPU's memory, which trials had to do without\n"
            "call recommend() before the model is moved there to measure larger batches"
        )
    return told


def read_own_memory_bytes() -> int:
    """Return the resident memory of this process and its children: it counts as a trial's that runs in it."""
    own = TreeReader(os.getpid())
    try:
        return own.read().memory_bytes
    except (OSError, ValueError, LookupError):
        return 0
    finally:
        own.close()


def read_own_device_bytes() -> int:
    """Return the memory that torch has reserved on the current CUDA device in this process; 0 without CUDA in use.

    torch is not imported here but taken from the script, which has loaded it if it has anything on a device.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_reserved())


def held_by_training(report: Report) -> Held:
    """Return what the recommended training loader's workers hold: as measured, else by a worker's usual size.

    What the main process takes is in the validation's own trials, so it is left out: the trial that trained on a
    resident batch, without workers, says how much that is.
    """
    recommendation = report.recommendation
    settings = report.request.baseline if recommendation is None else recommendation.settings
    with_workers = _pss_bytes(each for each in report.trials if each.settings == settings and each.feed == "loader")
    alone = _pss_bytes(each for each in report.trials if each.feed == "resident")
    measured = None if with_workers is None or alone is None else max(0, with_workers - alone)
    memory = settings.num_workers * WORKER_BYTES if measured is None or not settings.num_workers else measured
    return Held(memory_bytes=memory, shm_bytes=shm_size_bytes(settings, _sample_bytes(report, settings)))


def _pss_bytes(trials: Iterable[TrialResult]) -> int | None:
    known = [trial.trace.pss_bytes for trial in trials if trial.trace is not None and trial.trace.pss_bytes is not None]
    return max(known, default=None)


def _sample_bytes(report: Report, settings: Settings) -> int:
    """Return the bytes of a collated sample; 0 where no batch was seen."""
    sizes = [
        each.measurement.batch_bytes // each.settings.batch_size
        for each in report.trials
        if each.measurement is not None and each.measurement.batch_bytes
    ]
    return max(sizes, default=0) if settings.num_workers else 0
