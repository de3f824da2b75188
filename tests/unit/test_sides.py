"""Is one side of a duel resumed whole? Its process is made up."""

import time
from collections import deque
from signal import SIGCONT, SIGSTOP
from types import SimpleNamespace

import pytest

from loadtune.engine.sides import Side, finish_last_burst, run_slice
from loadtune.records.messages import StepsDone

SLICE_S = 0.05
POLL_S = 0.01


class Process:
    """It remembers its signals; after each poll it has done a step."""

    def __init__(self):
        self.signals, self.inbox, self.exit = [], deque(), None

    def signal_group(self, number):
        self.signals.append(number)

    def poll(self, timeout_s):
        time.sleep(min(timeout_s, POLL_S))
        self.inbox.append(StepsDone(finished_s=[time.monotonic()], samples=[1]))


def run(turn):
    process = Process()
    side = Side(process)
    arena = SimpleNamespace(launcher=SimpleNamespace(poll=process.poll))
    turn(arena, side)
    return process.signals


@pytest.mark.parametrize(
    "turn",
    [
        lambda arena, side: run_slice(arena, side, SLICE_S, SimpleNamespace(excess=lambda: None)),
        lambda arena, side: finish_last_burst(arena, side, 3, SLICE_S),
    ],
)
def test_a_side_is_told_to_go_on_again_and_again(turn):
    """A worker that was forked in the moment of the stop may miss the first word; the last one is to stop."""
    signals = run(turn)
    assert signals[-1] == SIGSTOP
    assert set(signals[:-1]) == {SIGCONT}
    assert len(signals) >= 4
