"""Was this very question answered before? Answers kept by what decides them, in the user's cache folder.

The key holds GPU, cores, memory limit, /dev/shm, the file system of the data, data, model, options and versions. Host
names are not in it: clusters give a new one each time. What is kept is a report as any other, validated when it is
read; one that cannot be read counts as none.
"""

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from loadtune.errors import LoadtuneError
from loadtune.fingerprint import NotDescribableError, fingerprint
from loadtune.records.report import DatasetSummary, Report, Request, Verdict
from loadtune.records.resources import Environment
from loadtune.render.saved import read_report, write_report

MEMORY_STEP_BYTES = 2**30
"""Memory limits that round to the same are the same: two nodes of one kind differ by some megabytes."""
FACT_DIGITS = 32
"""Hexadecimal digits kept of a fact: two that differ share 128 bits once in the life of the universe."""
KEPT_WORDS = "and kept: nothing was measured now."
"""How the warning of a recalled answer ends: whoever expects a measurement must see that there was none."""
KEPT_VERDICTS = (Verdict.FASTER, Verdict.SAME)
"""An inconclusive answer would be given again for ever, where a second measurement might tell."""


def cache_folder() -> Path:
    """Return where answers are kept: `$XDG_CACHE_HOME/loadtune`, by default ~/.cache/loadtune."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "loadtune"


def compute_facts(
    request: Request,
    environment: Environment,
    dataset: DatasetSummary,
    objects: Mapping[str, Any],
    also: object = None,
) -> dict[str, str] | None:
    """Return everything that decides the answer, a digest each by its name; None where not all of it can be told.

    Args:
        request: What was asked.
        environment: The machine.
        dataset: The data as recognised.
        objects: What was handed over.
        also: What else was asked or seen, as JSON can hold it.
    """
    workload = request.workload
    targets = [each for each in (workload.dataset_target, workload.model_target, workload.train_step_target) if each]
    contents = [_target_content(target) for target in targets]
    try:
        handed = {name: fingerprint(value) for name, value in objects.items()}
    except NotDescribableError:
        return None
    if None in contents:
        return None
    limits = environment.limits
    path = Path(request.dataset)
    facts = {
        "request": msgspec.structs.replace(request, command=(), dataset="", budget_s=0.0),
        "budget": request.budget_s,
        "data": os.fsencode(path.resolve()).hex() if path.exists() and "dataset" not in objects else request.dataset,
        "dataset": msgspec.structs.replace(dataset, source="", bad_samples=(), bad_sample_count=0),
        "gpus": [(gpu.name, gpu.memory_bytes, gpu.driver) for gpu in environment.gpus],
        "cpu": environment.cpu_model,
        "cores": limits.usable_cores,
        "memory": round(limits.memory_limit_bytes / MEMORY_STEP_BYTES),
        "shm": None if limits.shm_total_bytes is None else round(limits.shm_total_bytes / MEMORY_STEP_BYTES, 1),
        "file_system": environment.file_system,
        "python": environment.python,
        "versions": environment.versions,
        "start_method": environment.start_method,
        "objects": handed,
        "targets": contents,
        "also": also,
    }
    return {name: _digest(fact)[:FACT_DIGITS] for name, fact in facts.items()}


def compute_key(facts: Mapping[str, str]) -> str:
    """Return under which name the answer to these facts is kept."""
    return _digest(dict(facts))


def _digest(fact: object) -> str:
    return hashlib.sha256(msgspec.json.encode(fact, order="deterministic")).hexdigest()


def _target_content(reference: str) -> str | None:
    """Return a digest of the file behind `train.py:make` or `package.module:make`; None where there is none to read."""
    source = reference.rpartition(":")[0]
    try:
        found = None if source.endswith(".py") or "/" in source else importlib.util.find_spec(source)
        path = Path(source) if found is None else Path(found.origin or "")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ImportError, ValueError):
        return None


def recall(key: str) -> Report | None:
    """Return the answer kept under a key, saying so; None without one that can be read."""
    try:
        found = read_report(cache_folder() / f"{key}.json")
    except (LoadtuneError, OSError, RuntimeError):
        return None
    told = f"This answer was measured at {found.created} {KEPT_WORDS}\nmeasure anew with --fresh, or fresh=True"
    return msgspec.structs.replace(found, warnings=(told, *found.warnings))


def is_recalled(report: Report) -> bool:
    """Say whether a report was kept from before."""
    return any(KEPT_WORDS in warning for warning in report.warnings)


def remember(key: str, report: Report) -> bool:
    """Keep a finished answer, if it is worth keeping and can be written; say whether it was."""
    told = report.recommendation
    if report.status != "complete" or told is None or told.verdict not in KEPT_VERDICTS:
        return False
    try:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        write_report(report, folder / f"{key}.json")
    except (LoadtuneError, OSError, RuntimeError):  # a full or read-only home must not cost the answer
        return False
    return True
