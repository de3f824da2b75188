"""Six cells of a device and its replay, with trials that are made up: what is asked, how often, and what is said."""

from contextlib import contextmanager
from types import SimpleNamespace

import msgspec
import pytest

from loadtune.records.measurement import Cause, Failure, TrialState
from loadtune.records.profile import ProfilePoint, ReplayProfile
from loadtune.records.settings import DeviceChoice, Settings, TrialSpec, WorkloadSpec
from loadtune.records.verification import Outcome
from loadtune.verifying import replaying
from loadtune.verifying.bench import Watch
from tests.examples import complete

REAL_PER_S = 100.0
PROFILE = ReplayProfile(name="recorded", origin="measured", points=(ProfilePoint(batch_size=8, device_s=0.1),))


class MadeUp:
    """A bench whose replay runs at the ratio that `ratio_of` gives for a cell and a look, and remembers every spec."""

    is_on_cuda = True
    settings = Settings(num_workers=8, batch_size=8)
    trial = SimpleNamespace(seconds_spent=1.0)

    def __init__(self, ratio_of, cache="warm"):
        self.run = SimpleNamespace(cache=cache, drawn=0)
        self.specs, self._ratio_of, self._looks = [], ratio_of, {}

    def spec(self):
        return SimpleNamespace(threads=2)

    def is_disturbing(self, foreign):
        return False

    def run_trial(self, spec):
        self.specs.append(spec)
        rate = REAL_PER_S
        if spec.device.kind == "replay":
            look = self._looks[spec.settings] = self._looks.get(spec.settings, -1) + 1
            rate *= self._ratio_of(spec.settings, look)
        return complete(len(self.specs), spec.settings, rate)


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch):
    @contextmanager
    def watch(bench):
        yield Watch()

    def make_spec(run, leg):
        run.drawn += 1
        return TrialSpec(
            settings=leg.settings,
            device=DeviceChoice(kind="cuda"),
            workload=WorkloadSpec(),
            first_sample=run.drawn,
        )

    monkeypatch.setattr(replaying, "watch", watch)
    monkeypatch.setattr(replaying, "make_spec", make_spec)
    monkeypatch.setattr(replaying, "make_profile", lambda name, trials: PROFILE)


def check(bench, seconds=600.0):
    """The one check of a CUDA device."""
    (found,) = replaying.check_replay(bench, seconds)
    return found


def test_a_true_replay_takes_two_recordings_and_a_pair_a_cell():
    """Each side first by turns, both on the same samples."""
    bench = MadeUp(lambda settings, look: 1.01)
    found = check(bench)
    assert (found.outcome, len(found.figures)) == (Outcome.HOLDS, 6)
    assert len(bench.specs) == 2 + 12
    pairs = list(zip(bench.specs[2::2], bench.specs[3::2], strict=True))
    assert [first.device.kind for first, _ in pairs] == ["cuda", "replay"] * 3
    assert all(first.first_sample == second.first_sample for first, second in pairs)


def test_data_that_stream_from_storage_are_never_read_twice():
    """The first side would warm the page cache for the second."""
    bench = MadeUp(lambda settings, look: 1.0, cache="streaming")
    check(bench)
    assert all(a.first_sample != b.first_sample for a, b in zip(bench.specs[2::2], bench.specs[3::2], strict=True))


def test_a_cell_that_is_off_is_looked_at_again():
    """Off twice is a fault; off once is noise."""
    odd = Settings(num_workers=4, batch_size=4)
    bench = MadeUp(lambda settings, look: 1.2 if settings == odd else 1.0)
    found = check(bench)
    assert (found.outcome, len(bench.specs)) == (Outcome.FAILS, 2 + 14)
    assert "1 of 6" in found.reason
    once = check(
        MadeUp(lambda settings, look: 1.2 if settings == odd and look == 0 else 0.9 if settings == odd else 1.0)
    )
    assert once.outcome is not Outcome.FAILS


def test_too_few_seconds_record_nothing():
    """And say so."""
    bench = MadeUp(lambda settings, look: 1.0)
    found = check(bench, seconds=1.0)
    assert (found.outcome, bench.specs, "too few" in found.reason) == (Outcome.UNKNOWN, [], True)


def test_a_device_that_cannot_be_recorded_is_unknown(monkeypatch):
    """With the words of the failure."""
    bench = MadeUp(lambda settings, look: 1.0)
    failed = msgspec.structs.replace(
        complete(1, bench.settings, REAL_PER_S),
        state=TrialState.CRASHED,
        measurement=None,
        rate_per_s=None,
        failure=Failure(cause=Cause.WORKER, message="gone"),
    )
    monkeypatch.setattr(bench, "run_trial", lambda spec: failed)
    assert check(bench).outcome is Outcome.UNKNOWN
    assert "could not be recorded: gone" in check(bench).reason
