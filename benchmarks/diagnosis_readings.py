"""How does a recipe of `diagnosis` become settings and a device, and what do its report and trials say? Pure."""

import math
import os

from benchmarks.diagnosis_faults import FAULTS
from benchmarks.diagnosis_recipe import BATCH, Recipe
from loadtune.records.measurement import TrialResult
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.report import Report
from loadtune.records.settings import Settings


def make_settings(recipe: Recipe) -> Settings:
    """Return the loader's settings of a recipe."""
    return Settings(
        num_workers=recipe.num_workers,
        batch_size=recipe.batch_size,
        prefetch_factor=recipe.prefetch_factor if recipe.num_workers else None,
        persistent_workers=recipe.is_persistent and recipe.num_workers > 0,
    )


def format_baseline(settings: Settings) -> str:
    """Return settings as --baseline takes them."""
    words = [f"{name}={str(value).lower()}" for name, value in settings.dataloader_kwargs().items()]
    return ",".join(words)


def make_profile(recipe: Recipe) -> ReplayProfile:
    """Return the device of a recipe: steps and copies in proportion to the batch, the host's part the same for all."""
    points = tuple(
        ProfilePoint(
            batch_size=times * BATCH,
            device_s=times * recipe.device_s,
            host_cpu_s=recipe.host_s,
            copy_s=times * recipe.copy_s,
        )
        for times in (1, 4)
    )
    return ReplayProfile(
        name="an injected fault's device", origin="written by hand", run_ahead_steps=recipe.run_ahead, points=points
    )


def read_findings(report: Report) -> list[tuple[str, str]]:
    """Return rule and severity of what a report names, a baseline that failed before its findings."""
    failed = [
        (f"failure:{trial.failure.cause}", "warning")
        for trial in report.trials
        if trial.failure is not None and trial.role in {"baseline", "grid"}
    ]
    return [*dict.fromkeys(failed), *((finding.rule, finding.severity) for finding in report.findings)]


def end_to_end(report: Report) -> TrialResult | None:
    """Return the last complete trial that trained from the loader."""
    own = [trial for trial in report.trials if trial.rate_per_s and trial.role in {"baseline", "grid"}]
    return own[-1] if own else None


def read_utilisation(trial: TrialResult | None) -> list[float]:
    """Return what NVML would have shown while a trial measured, oldest first."""
    if trial is None or trial.trace is None:
        return []
    low, high = trial.trace.measuring_s or (-math.inf, math.inf)
    return [round(each.utilisation_ratio, 2) for each in trial.trace.gpu if low <= each.at_s <= high]


def read_shares(trial: TrialResult | None) -> dict[str, float | None]:
    """Return the shares that rivals go by: waiting in next() and copying of a step, and all that keeps cores busy."""
    if trial is None or trial.measurement is None or trial.trace is None:
        return {"wait": None, "copy": None, "cpu": None}
    windows, trace, whole_s = trial.measurement.windows, trial.trace, trial.measurement.duration_s
    cores = [trace.mean_worker_cores, trace.mean_main_cores, trace.mean_foreign_cores]
    known = [each for each in cores if each is not None]
    return {
        "wait": round(sum(window.data_wait_s for window in windows) / whole_s, 3),
        "copy": round(sum(window.copy_s or 0.0 for window in windows) / whole_s, 3),
        "cpu": round(sum(known) / (os.cpu_count() or 1), 3) if known else None,
    }


def foreign_cores(trial: TrialResult | None) -> float | None:
    """Return the cores that neither the trial nor its watching used, the hypervisor's among them.

    None: not read, or the trial failed.
    """
    if trial is None or trial.rate_per_s is None or trial.trace is None or trial.trace.mean_foreign_cores is None:
        return None
    taken = trial.trace.mean_foreign_cores + (trial.trace.mean_steal_cores or 0.0)
    return max(0.0, taken - (trial.trace.sampler_cores or 0.0))


def worth(recipe: Recipe, trial: TrialResult | None) -> float | None:
    """Return different samples a second over whole epochs; None where the trial failed."""
    if trial is None or trial.rate_per_s is None or trial.measurement is None:
        return None
    rate, boundary_s = trial.rate_per_s * recipe.useful_ratio, trial.measurement.epoch_boundary_s
    if recipe.is_iterable or boundary_s is None:
        return rate  # an iterable data set ends within the windows
    return recipe.length / (recipe.length / rate + boundary_s)


def cost(
    kinds: tuple[str, ...], fault: tuple[Recipe, TrialResult | None], healthy: tuple[Recipe, TrialResult | None]
) -> float | None:
    """Return the share that a fault takes of its healthy twin's throughput, or adds to its memory; None: not told."""
    if all(FAULTS[kind].loss == "memory" for kind in kinds):
        used = [
            None if trial is None or trial.trace is None else trial.trace.pss_bytes for _, trial in (healthy, fault)
        ]
        share = ratio(used[1], used[0])
        return None if share is None else round(share - 1.0, 3)
    good = worth(*healthy)
    share = ratio(worth(*fault) or 0.0, good)
    return None if share is None else round(1.0 - share, 3)


def gain(before: float | None, after: float | None) -> float | None:
    """Return by how much a rate rises; from nothing to anything counts as a hundredfold."""
    if after is None:
        return None
    return 100.0 if not before else round(after / before - 1.0, 3)


def ratio(value: float | None, by: float | None) -> float | None:
    """Return a ratio; None where either is missing."""
    return None if value is None or not by else round(value / by, 3)


def _used_bytes(trial: TrialResult | None) -> int | None:
    return None if trial is None or trial.trace is None else trial.trace.pss_bytes
