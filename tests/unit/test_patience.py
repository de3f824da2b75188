"""A call that may hang is waited for, and then left to itself."""

import threading

import pytest

from loadtune.doctor.patience import Look


def test_an_answer_in_time_is_given() -> None:
    """None is an answer too."""
    assert Look(lambda: 7).wait(60.0) == 7
    assert Look(lambda: None).wait(60.0) is None


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    """As it was."""

    def fail() -> int:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        Look(fail).wait(60.0)


def test_a_call_that_hangs_is_given_up() -> None:
    """And keeps no program alive."""
    never = threading.Event()
    look = Look(never.wait)
    with pytest.raises(TimeoutError, match=r"no answer in 0\.01 s"):
        look.wait(0.01)
    assert look._thread.daemon
    never.set()
    assert look.wait(60.0) is True
