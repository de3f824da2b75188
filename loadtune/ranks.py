"""Who decides where several processes train together? Rank 0 does, while the others wait, and all get the same answer.

The answer travels through the store by which the processes found each other, not by a collective: a rank that waits
in one keeps its GPU busy, which would be measured. torch is not imported here but taken from the script, which has
loaded it; so whoever uses no torch pays nothing.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import count
from typing import Any

import msgspec

from loadtune import errors
from loadtune.errors import EngineError, LoadtuneError, UsageError
from loadtune.records.report import Report

MEASURED_RANKS_MAX = 8
"""Ranks that may wait while one measures. With more, a minute costs more GPU time than it is likely to win."""
WAIT_FACTOR, WAIT_MORE_S = 2.0, 300.0
"""How long the others wait: the budget is kept, but a rank may come to the call minutes before rank 0 does."""

_calls = count()
"""Each call has a name of its own in the store: every rank calls as often, in the same order."""


class _Answer(msgspec.Struct):
    """What rank 0 tells: a report, or the error that it met."""

    report: Report | None = None
    error: str = ""
    what: str = ""
    hint: str = ""


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes train together: the process group's, else WORLD_SIZE; 1 where nothing says so."""
    group = _group()
    return int(group.get_world_size()) if group is not None else _number(environ, "WORLD_SIZE", 1)


def local_ranks(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many of them share this machine.

    Raises:
        UsageError: There are several, and nothing says how many of them are here.
    """
    if world_size(environ) > 1 and not environ.get("LOCAL_WORLD_SIZE", "").isdigit():
        raise UsageError(
            f"{world_size(environ)} processes train together, and nothing says how many of them share this machine",
            "set LOCAL_WORLD_SIZE, as torchrun does",
        )
    return _number(environ, "LOCAL_WORLD_SIZE", 1)


def _group() -> Any:
    """Return torch.distributed where the script has made a process group; None elsewhere."""
    distributed = sys.modules.get("torch.distributed")
    made = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if made else None


def _rank(environ: Mapping[str, str]) -> int:
    """Return which of the processes this is.

    Raises:
        UsageError: Nothing says so.
    """
    group = _group()
    if group is None and not environ.get("RANK", "").isdigit():
        raise UsageError(
            f"WORLD_SIZE={world_size(environ)}, and nothing says which of them this is",
            "set RANK, or call torch.distributed.init_process_group() first",
        )
    return int(group.get_rank()) if group is not None else _number(environ, "RANK", 0)


def decide_once(
    decide: Callable[[], Report], budget_s: float, environ: Mapping[str, str] = os.environ, call: int | None = None
) -> Report:
    """Return what `decide` gives on rank 0, on every rank.

    Args:
        decide: Measures, or recalls.
        budget_s: Seconds that it may take.
        environ: WORLD_SIZE, RANK and where the store is, as torchrun sets them.
        call: Which call of the script this is; None: the next.

    Raises:
        LoadtuneError: What rank 0 met, raised on every rank; or there is no store.
    """
    if world_size(environ) == 1:
        return decide()
    store = _open_store(environ, next(_calls) if call is None else call)
    if _rank(environ) != 0:
        return _wait(store, timedelta(seconds=WAIT_FACTOR * budget_s + WAIT_MORE_S))
    try:
        report = decide()
    except LoadtuneError as error:
        _tell(store, _Answer(error=type(error).__name__, what=error.what, hint=error.hint))
        raise
    except BaseException as error:
        _tell(store, _Answer(error="EngineError", what=f"rank 0 ended by {type(error).__name__}", hint="see its log"))
        raise
    _tell(store, _Answer(report=report))
    return report


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    text = environ.get(name, "")
    return max(least, int(text)) if text.isdigit() else least


def _tell(store: Any, answer: _Answer) -> None:
    try:
        content = msgspec.json.encode(answer)
    except UnicodeEncodeError:  # a file name that is not UTF-8
        content = msgspec.json.encode(
            _Answer(error="EngineError", what="the answer holds names that are not UTF-8", hint="rename the files")
        )
    store.set("answer", content)


def _wait(store: Any, limit: timedelta) -> Report:
    """Return what rank 0 told, or raise what it met."""
    try:
        store.wait(["answer"], limit)
        told = store.get("answer")
    except RuntimeError as error:
        raise EngineError(
            f"rank 0 told nothing within {limit.total_seconds():.0f} s",
            "see its log; every rank has to call recommend()",
        ) from error
    answer = msgspec.json.decode(told, type=_Answer)
    if answer.report is not None:
        return answer.report
    raise getattr(errors, answer.error, LoadtuneError)(answer.what, answer.hint)


def _open_store(environ: Mapping[str, str], call: int) -> Any:
    """Return this call's part of the store: the process group's, or the one that torchrun keeps.

    Raises:
        UsageError: There is neither.
    """
    distributed = sys.modules.get("torch.distributed") or importlib.import_module("torch.distributed")
    # A restarted group may find the store as the one before left it.
    attempt = environ.get("TORCHELASTIC_RUN_ID", ""), environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = f"loadtune/{'/'.join(attempt)}/{call}"
    if distributed.is_initialized():
        # torch has no public name for it; torch.distributed.checkpoint and others take it the same way.
        store = distributed.distributed_c10d._get_default_store()  # noqa: SLF001
        return distributed.PrefixStore(prefix, store)
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        try:
            address, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
            return distributed.PrefixStore(prefix, distributed.TCPStore(address, port, is_master=False))
        except (KeyError, ValueError, RuntimeError) as error:
            raise EngineError(f"torchrun's store cannot be reached: {error}", "see the agent's log") from error
    raise UsageError(
        f"WORLD_SIZE={world_size(environ)}, and the processes have no way to talk yet",
        "call torch.distributed.init_process_group() first, or start the script with torchrun",
    )
