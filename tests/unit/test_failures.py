"""What do exceptions, exits and silences mean? Real texts of torch, each with its cause."""

import errno
import signal

import pytest

from loadtune.engine.failures import Ended, classify_exception, explain, explain_exit
from loadtune.errors import TargetError, TooManyBadSamplesError
from loadtune.records.measurement import Cause, TrialState
from loadtune.records.messages import Exited, Failed

FROM_A_WORKER = """Caught {kind} in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "/site-packages/torch/utils/data/_utils/worker.py", line 349, in _worker_loop
    data = fetcher.fetch(index)
           ^^^^^^^^^^^^^^^^^^^^
  File "/home/user/train.py", line 12, in __getitem__
    raise {kind}("it")
{kind}: {told}
"""
TEXTS = [
    (RuntimeError("unable to write to file </torch_48151_2342_0>: No space left on device (28)"), Cause.SHARED_MEMORY),
    (RuntimeError("unable to resize file </torch_48151_2342_0> to the right size: No space left"), Cause.SHARED_MEMORY),
    (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit."
        ),
        Cause.SHARED_MEMORY,
    ),
    (OSError(errno.EMFILE, "Too many open files"), Cause.OPEN_FILES),
    (RuntimeError("received 0 items of ancdata"), Cause.OPEN_FILES),
    (RuntimeError("Too many open files. Communication with the workers is no longer possible."), Cause.OPEN_FILES),
    (MemoryError(), Cause.HOST_MEMORY),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), Cause.HOST_MEMORY),
    (
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
        Cause.HOST_MEMORY,
    ),
    (RuntimeError("DataLoader worker (pid(s) 48151, 48152) exited unexpectedly"), Cause.WORKER),
    (RuntimeError("DataLoader worker (pid 48151) is killed by signal: Killed. "), Cause.WORKER),
    (
        RuntimeError(
            "DataLoader worker (pid 7) exited unexpectedly with exit code 5. Details are lost due to multiprocessing."
        ),
        Cause.WORKER,
    ),
    (TooManyBadSamplesError("64 samples in a row", "repair them"), Cause.BAD_SAMPLES),
    (ValueError("empty annotation"), Cause.USER_CODE),
    (KeyboardInterrupt(), Cause.USER_CODE),
    (SystemExit(3), Cause.USER_CODE),
    (OSError(errno.ENOSPC, "No space left on device"), Cause.USER_CODE),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), Cause.USER_CODE),
]
STATES = {
    Cause.SHARED_MEMORY: TrialState.OUT_OF_MEMORY,
    Cause.HOST_MEMORY: TrialState.OUT_OF_MEMORY,
    Cause.DEVICE_MEMORY: TrialState.OUT_OF_MEMORY,
    Cause.OPEN_FILES: TrialState.FAILED,
    Cause.BAD_SAMPLES: TrialState.FAILED,
    Cause.USER_CODE: TrialState.FAILED,
    Cause.WORKER: TrialState.CRASHED,
}


def classify(error, *, is_device_memory=False):
    return classify_exception(error, is_device_memory=is_device_memory)


@pytest.mark.parametrize(("error", "cause"), TEXTS, ids=[f"{cause}-{n}" for n, (_, cause) in enumerate(TEXTS)])
def test_an_exception_has_one_cause_and_says_what_to_do(error, cause):
    """Texts as torch 2.11 to 2.15 write them."""
    found = classify(error)
    assert (found.state, found.cause) == (STATES[cause], cause)
    assert found.hint
    assert "\n" not in found.message


@pytest.mark.parametrize(
    ("kind", "told", "cause"),
    [
        ("ValueError", "empty annotation", Cause.USER_CODE),
        ("MemoryError", "", Cause.USER_CODE),
        ("OSError", "[Errno 24] Too many open files: 'a.png'", Cause.OPEN_FILES),
        ("RuntimeError", "unable to write to file </torch_4_2_0>: No space left on device (28)", Cause.SHARED_MEMORY),
        ("loadtune.errors.TooManyBadSamplesError", "64 samples in a row\nrepair them", Cause.BAD_SAMPLES),
    ],
)
def test_a_worker_s_exception_is_told_by_its_own_line(kind, told, cause):
    """DataLoader wraps the traceback as text: the line after it counts, not DataLoader's first or a message's last."""
    name = kind.rpartition(".")[2]
    text = FROM_A_WORKER.format(kind=kind, told=told).replace(f"Caught {kind}", f"Caught {name}")
    found = classify(RuntimeError(text))
    assert found.cause is cause
    assert found.message == f"{kind}: {told}".splitlines()[0].strip()


def test_a_message_of_several_lines_is_told_by_its_first():
    """In the main process and in a worker alike."""
    assert classify(ValueError("one\ntwo")).message == "ValueError: one"
    text = FROM_A_WORKER.format(kind="ValueError", told="one\ntwo")
    assert classify(ValueError(text)).message == "ValueError: one"


def test_bad_samples_of_a_worker_keep_their_hint():
    """The class of two arguments does not survive DataLoader's wrapping; its text does."""
    text = FROM_A_WORKER.format(kind="TooManyBadSamplesError", told="64 samples in a row\nrepair them")
    assert classify(RuntimeError(text)).hint == "repair them"


def test_a_target_error_keeps_its_own_words():
    """What it says is already made for a person."""
    found = classify(TargetError("train.py has no attribute 'x'", "did you mean train.py:y?"))
    assert (found.message, found.hint) == ("train.py has no attribute 'x'", "did you mean train.py:y?")
    assert found.cause is Cause.USER_CODE


def test_device_memory_overrules_every_text():
    """The device itself says so."""
    found = classify(RuntimeError("Too many open files"), is_device_memory=True)
    assert (found.state, found.cause) == (TrialState.OUT_OF_MEMORY, Cause.DEVICE_MEMORY)


def test_an_error_without_a_message_is_told_by_its_class():
    """No colon after nothing."""
    assert classify(MemoryError()).message == "MemoryError"
    assert classify(KeyboardInterrupt()).message == "KeyboardInterrupt"


def test_a_name_that_is_not_utf_8_becomes_text_that_json_can_hold():
    """A lone surrogate would end the trial without a word."""
    for error in (ValueError("no mask for photo-\udcff.png"), TargetError("photo-\udcff.png", "rename \udcff")):
        found = classify(error)
        assert r"photo-\udcff.png" in found.message
        (found.message + found.hint).encode()


def rebuild_storage_fd(error):
    """Named as torch's own function, in which a dead worker's batch is asked for."""
    raise error


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "No such file or directory"), ConnectionResetError(104, "reset"), EOFError()]
)
def test_a_batch_of_a_worker_that_is_gone_is_a_dead_worker(error):
    """Torch tells it as a missing file or a closed connection."""
    with pytest.raises(type(error)) as raised:
        rebuild_storage_fd(error)
    found = classify(raised.value)
    assert (found.state, found.cause) == (TrialState.CRASHED, Cause.WORKER)
    assert "a DataLoader worker ended" in found.message


def test_too_many_open_files_on_a_batch_s_way_is_no_dead_worker():
    """The same place in torch, another cause."""
    with pytest.raises(OSError, match="Too many") as raised:
        rebuild_storage_fd(OSError(errno.EMFILE, "Too many open files"))
    assert classify(raised.value).cause is Cause.OPEN_FILES


def exited(*, code=None, number=None):
    return Exited(pid=7, exit_code=code, signal=number, cpu_s=1.0, peak_rss_bytes=1)


@pytest.mark.parametrize(
    ("ended", "state", "cause", "told"),
    [
        (Ended(exited(number=signal.SIGKILL), 1), TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY, "want of memory"),
        (Ended(exited(number=signal.SIGKILL), 0), TrialState.CRASHED, Cause.SIGNAL, "SIGKILL"),
        (Ended(exited(number=signal.SIGSEGV), 1), TrialState.CRASHED, Cause.SIGNAL, "SIGSEGV"),
        (Ended(exited(number=signal.SIGBUS), 0), TrialState.OUT_OF_MEMORY, Cause.SHARED_MEMORY, "SIGBUS"),
        (Ended(exited(code=7), 0), TrialState.CRASHED, Cause.EXIT, "exit code 7"),
        (Ended(exited(code=0), 0), TrialState.CRASHED, Cause.EXIT, "exit code 0"),
        (Ended(None, 0), TrialState.CRASHED, Cause.EXIT, "ended"),
    ],
)
def test_an_end_without_a_word_is_told_by_its_status(ended, state, cause, told):
    """Exit code and signal are kept for programs, the log for people."""
    found_state, failure = explain_exit(ended, "the log")
    assert (found_state, failure.cause) == (state, cause)
    assert told in failure.message
    assert failure.log_tail == "the log"
    if ended.exit is not None:
        assert (failure.exit_code, failure.signal) == (ended.exit.exit_code, ended.exit.signal)


def test_a_kernel_kill_overrules_a_dead_worker_and_nothing_else():
    """A worker that the kernel killed is host memory; a user's error beside somebody else's kill is not."""
    worker = Failed(state=TrialState.CRASHED, cause=Cause.WORKER, message="exited unexpectedly", hint="look")
    state, failure = explain(worker, Ended(exited(code=3), 1), "log")
    assert (state, failure.cause) == (TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY)
    assert "exited unexpectedly" in failure.message
    assert explain(worker, Ended(exited(code=3), 0), "log")[1].cause is Cause.WORKER
    user = Failed(state=TrialState.FAILED, cause=Cause.USER_CODE, message="ValueError: it", hint="look")
    assert explain(user, Ended(None, 3), "log")[1].cause is Cause.USER_CODE
