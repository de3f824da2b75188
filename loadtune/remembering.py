"""Was this very question answered before? Answers kept by what decides them, in the user's cache folder.

The key holds GPU, cores, memory limit, /dev/shm, the file system of the data, data, model, options and versions. Host
names are not in it: clusters give a new one each time. What is kept is a report as any other, validated when it is
read; one that cannot be read counts as none.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec

from loadtune.errors import LoadtuneError
from loadtune.records.report import DatasetSummary, Report, Request, Verdict
from loadtune.records.resources import Environment
from loadtune.render.saved import read_report, write_report

MEMORY_STEP_BYTES = 2**30
"""Memory limits that round to the same are the same: two nodes of one kind differ by some megabytes."""
KEPT_VERDICTS = (Verdict.FASTER, Verdict.SAME)
"""An inconclusive answer would be given again for ever, where a second measurement might tell."""


def cache_folder() -> Path:
    """Return where answers are kept: `$XDG_CACHE_HOME/loadtune`, by default ~/.cache/loadtune."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "loadtune"


def compute_key(request: Request, environment: Environment, dataset: DatasetSummary, objects: Mapping[str, Any]) -> str:
    """Return a digest of everything that decides the answer.

    Args:
        request: What was asked.
        environment: The machine.
        dataset: The data as recognised.
        objects: What was handed over.
    """
    limits = environment.limits
    path = Path(request.dataset)
    facts = {
        "request": msgspec.structs.replace(request, command=(), dataset=""),
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
        "objects": {name: describe_object(value) for name, value in objects.items()},
    }
    return hashlib.sha256(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def describe_object(value: Any) -> Any:
    """Return what tells one handed-over object from another, the same in the next run of the script.

    Its weights do not: they change with every step and cost nothing. Its class, its code, its length and the shapes
    of its tensors do.
    """
    facts: dict[str, Any] = {"type": f"{type(value).__module__}.{type(value).__qualname__}"}
    if isinstance(value, tuple | list) and len(value) < 16:
        facts["items"] = [describe_object(each) for each in value]
    if isinstance(value, str | int | float | bool | dict):
        facts["value"] = repr(value)
    for name in ("__call__", "__getitem__", "__iter__", "forward"):
        code = _code_of(getattr(type(value), name, None))
        if code is not None:
            facts[name] = code
    own = _code_of(value)
    if own is not None:
        facts["code"] = own
    with contextlib.suppress(Exception):  # a user's __len__ or state_dict may raise what it likes
        facts["length"] = len(value)
    with contextlib.suppress(Exception):
        state = value.state_dict()
        facts["tensors"] = [(key, str(getattr(each, "shape", None)), str(each.dtype)) for key, each in state.items()]
    inner = getattr(value, "dataset", None)  # of a DataLoader
    if inner is not None:
        facts["dataset"] = describe_object(inner)
        facts["loader"] = [repr(getattr(value, name, None)) for name in ("batch_size", "num_workers", "drop_last")]
    return facts


def _code_of(value: Any) -> str | None:
    """Return a digest of a function's code, the functions in it included; None for what has none."""
    code = getattr(value, "__code__", None)
    if not isinstance(code, CodeType):
        return None
    digest = hashlib.sha256()
    pending = [code]
    while pending:
        each = pending.pop()
        digest.update(each.co_code)
        for constant in each.co_consts:
            if isinstance(constant, CodeType):
                pending.append(constant)
            else:  # a set of texts has another order in every process
                shown = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
                digest.update(repr(shown).encode("utf-8", "surrogateescape"))
        digest.update(" ".join(each.co_names).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def recall(key: str) -> Report | None:
    """Return the answer kept under a key, saying so; None without one that can be read."""
    try:
        found = read_report(cache_folder() / f"{key}.json")
    except (LoadtuneError, OSError):
        return None
    note = f"This answer was measured at {found.created} and kept: nothing was measured now."
    return msgspec.structs.replace(found, search_notes=(note, *found.search_notes))


def remember(key: str, report: Report) -> bool:
    """Keep a finished answer, if it is worth keeping and can be written; say whether it was."""
    told = report.recommendation
    if report.status != "complete" or told is None or told.verdict not in KEPT_VERDICTS:
        return False
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_report(report, folder / f"{key}.json")
    except (LoadtuneError, OSError):  # a full or read-only home must not cost the answer
        return False
    return True
