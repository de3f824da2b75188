"""Hypothesis strategies for the records that cross the walls."""

from hypothesis import strategies as st

from loadtune.records.measurement import Cause, TrialResult, TrialState, Window
from loadtune.records.settings import Settings
from tests.fake_runner import complete_result, failed_result

WORKERS = (0, 1, 2, 4, 8, 16)
BATCH_SIZES = (4, 8, 16)
BASELINE = Settings(num_workers=2, batch_size=8)


def settings() -> st.SearchStrategy[Settings]:
    """A point of a small grid."""
    return st.builds(Settings, num_workers=st.sampled_from(WORKERS), batch_size=st.sampled_from(BATCH_SIZES))


def windows(min_size: int = 1, max_size: int = 12) -> st.SearchStrategy[list[Window]]:
    """Consecutive windows with any queue and known or unknown decomposition."""
    window = st.builds(
        Window,
        started_s=st.floats(0, 100),
        duration_s=st.floats(0.01, 10),
        batches=st.integers(1, 100),
        samples=st.integers(1, 10_000),
        data_wait_s=st.floats(0, 5),
        device_idle_s=st.none() | st.floats(0, 5),
        queue_before=st.integers(0, 32),
        queue_after=st.integers(0, 32),
        flags=st.sampled_from([(), ("throttled",), ("steal",)]),
    )
    return st.lists(window, min_size=min_size, max_size=max_size)


@st.composite
def trials(draw: st.DrawFn) -> list[TrialResult]:
    """Trials of one to three rounds, complete, failed or missing; the baseline completed once."""
    made = [complete_result(BASELINE, draw(st.floats(1, 1000)), role="baseline")]
    for place in range(draw(st.integers(1, 3))):
        for point in draw(st.lists(settings(), unique=True, max_size=8)):
            number = len(made) + 1
            if draw(st.booleans()):
                rate, spread = draw(st.floats(1, 1000)), draw(st.sampled_from([0.0, 0.02, 0.2]))
                made.append(complete_result(point, rate, number=number, round=place, spread=spread))
            else:
                state = draw(st.sampled_from([each for each in TrialState if each is not TrialState.COMPLETE]))
                cause = draw(st.sampled_from(Cause))
                made.append(failed_result(point, state, cause, number=number, round=place))
    return made
