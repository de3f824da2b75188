"""What the training's workers hold is left to them while the validation is measured."""

import msgspec

from loadtune.advice.feasibility import WORKER_BYTES
from loadtune.holding import Held, describe_held, held_by_training, read_own_device_bytes, set_aside
from tests.examples import faster_report
from tests.unit.test_feasibility import make_limits

LIMITS = make_limits()


def test_limits_shrink_by_what_is_held():
    held = Held(memory_bytes=10, shm_bytes=20, device_bytes=30)
    limits = set_aside(held, LIMITS)
    assert limits.memory_available_bytes == LIMITS.memory_available_bytes - 10
    assert limits.shm_free_bytes == LIMITS.shm_free_bytes - 20
    assert set_aside(Held(memory_bytes=2**60, shm_bytes=2**60), LIMITS).memory_available_bytes == 0
    unknown = msgspec.structs.replace(LIMITS, shm_free_bytes=None)
    assert set_aside(held, unknown).shm_free_bytes is None


def test_it_is_said_only_where_something_is_held():
    assert describe_held(Held()) == []
    assert len(describe_held(Held(memory_bytes=2**30))) == 1
    assert "GPU" in describe_held(Held(device_bytes=2**30))[0]


def test_workers_hold_what_was_measured_beyond_the_main_process():
    report = faster_report()
    settings = report.recommendation.settings
    assert settings.num_workers > 0
    with_loader = [trial for trial in report.trials if trial.settings == settings and trial.feed == "loader"]
    measured = msgspec.structs.replace(with_loader[0].measurement, batch_bytes=4096)
    with_loader[0] = msgspec.structs.replace(with_loader[0], measurement=measured)
    trace = msgspec.structs.replace(with_loader[0].trace, pss_bytes=900)
    alone = msgspec.structs.replace(trace, pss_bytes=500)
    trials = (
        msgspec.structs.replace(with_loader[0], trace=trace),
        msgspec.structs.replace(with_loader[0], feed="resident", trace=alone),
    )
    measured = held_by_training(msgspec.structs.replace(report, trials=trials))
    assert measured.memory_bytes == 400
    assert measured.shm_bytes > 0
    guessed = held_by_training(msgspec.structs.replace(report, trials=()))
    assert guessed.memory_bytes == settings.num_workers * WORKER_BYTES
    assert guessed.shm_bytes == 0


def test_without_cuda_nothing_is_held_there():
    assert read_own_device_bytes() == 0
