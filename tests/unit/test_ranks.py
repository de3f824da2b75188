"""Rank 0 decides and all hear the same: over a real store, with ranks as threads."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import msgspec
import pytest
from torch.distributed import TCPStore

from loadtune import ranks
from loadtune.errors import EngineError, NothingMeasuredError, UsageError
from loadtune.ranks import decide_once, local_ranks, world_size
from tests.examples import faster_report


@pytest.fixture
def store():
    """What torchrun's agent keeps."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=20))


def environ(store: TCPStore, rank: int, world: int = 3) -> dict[str, str]:
    return {
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def never():
    raise AssertionError("only rank 0 decides")


def run(store: TCPStore, decide, call: int = 0):
    """What every rank gets, or the exception it meets."""
    with ThreadPoolExecutor(3) as pool:
        made = [
            pool.submit(decide_once, never if rank else decide, 5.0, environ(store, rank), call) for rank in (1, 2, 0)
        ]
        return [each.exception() or each.result() for each in made]


def test_every_rank_gets_the_answer_of_rank_0(store):
    report = faster_report()
    assert run(store, lambda: report) == [report] * 3


def test_calls_do_not_take_each_others_answers(store):
    first = faster_report()
    assert run(store, lambda: first, call=0) == [first] * 3
    second = msgspec.structs.replace(first, seconds_spent=1.0)
    assert run(store, lambda: second, call=1) == [second] * 3


def test_every_rank_meets_the_error_of_rank_0(store):
    def fail():
        raise NothingMeasuredError("every trial failed", "look at the log")

    found = run(store, fail)
    assert [type(error) for error in found] == [NothingMeasuredError] * 3
    assert {(error.what, error.hint) for error in found} == {("every trial failed", "look at the log")}


def test_a_bug_of_rank_0_ends_the_waiting(store):
    def fail():
        raise ZeroDivisionError

    *others, own = run(store, fail)
    assert isinstance(own, ZeroDivisionError)
    assert all(isinstance(error, EngineError) and "ZeroDivisionError" in error.what for error in others)


def test_a_silent_rank_0_is_not_waited_for_for_ever(store, monkeypatch):
    monkeypatch.setattr(ranks, "WAIT_MORE_S", 0.0)
    with pytest.raises(EngineError, match="told nothing"):
        decide_once(never, 0.1, environ(store, 1), 0)


def test_without_a_store_it_says_what_to_call():
    with pytest.raises(UsageError, match="no way to talk") as refused:
        decide_once(never, 5.0, {"WORLD_SIZE": "2", "RANK": "0"}, 0)
    assert "init_process_group" in refused.value.hint


def test_one_process_needs_no_store():
    assert decide_once(faster_report, 5.0, {}) == faster_report()
    assert (world_size({}), local_ranks({"LOCAL_WORLD_SIZE": "4"}), world_size({"WORLD_SIZE": "x"})) == (1, 4, 1)


def test_ranks_that_nothing_tells_apart_are_refused(store):
    """As where WORLD_SIZE is set and each process is told its rank in another way."""
    with pytest.raises(UsageError, match="which of them"):
        decide_once(never, 5.0, {**environ(store, 0), "RANK": ""}, 0)
    with pytest.raises(UsageError, match="share this machine"):
        local_ranks({"WORLD_SIZE": "2", "RANK": "0"})


def test_a_restarted_group_does_not_hear_the_answer_of_the_one_before(store):
    first, second = faster_report(), msgspec.structs.replace(faster_report(), seconds_spent=1.0)
    decide_once(lambda: first, 5.0, {**environ(store, 0), "TORCHELASTIC_RESTART_COUNT": "0"}, 0)
    decide_once(lambda: second, 5.0, {**environ(store, 0), "TORCHELASTIC_RESTART_COUNT": "1"}, 0)
    assert decide_once(never, 5.0, {**environ(store, 1), "TORCHELASTIC_RESTART_COUNT": "1"}, 0) == second
