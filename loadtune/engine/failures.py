"""Why did a trial not complete? From an exception, an exit status or a silence to one of a closed list of causes.

Pure: it reads names, texts and numbers. It imports no torch, so classes are known by their names.
"""

import errno
import re
import signal
import traceback
from dataclasses import dataclass

from loadtune.errors import TargetError, TooManyBadSamplesError
from loadtune.records.measurement import Cause, Failure, TrialState
from loadtune.records.messages import Exited, Failed

SHM_HINT = "give the container more shared memory (docker run --shm-size 8g), or use fewer workers or smaller batches"
FILES_HINT = "raise the limit of open files (ulimit -n 65535), or use fewer workers"
MEMORY_HINT = "use fewer workers, a smaller prefetch_factor or a smaller batch"
LOG_HINT = "the log below has the traceback"
WORKER_HINT = "the same data set with num_workers=0 may say why"

_SHARED_MEMORY = re.compile(
    # torch 2.11-2.15: "unable to write to file </torch_48151_2342_0>: No space left on device (28)",
    # "unable to resize file </torch_..>", "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible
    # that dataloader's workers are out of shared memory."
    r"unable to (write to|resize|open|mmap|allocate) .*(torch_|shared memory)|out of shared memory|Bus error"
    r"|No space left on device.*/torch_|/torch_.*No space left",
    re.IGNORECASE | re.DOTALL,
)
_OPEN_FILES = re.compile(r"Too many open files|received 0 items of ancdata", re.IGNORECASE)
_WORKER = re.compile(r"DataLoader worker \(pid(\(s\))? .*(exited unexpectedly|is killed by signal)", re.DOTALL)
_BAD_SAMPLES = re.compile(r"Caught TooManyBadSamplesError in DataLoader worker")
_HOST_MEMORY = re.compile(
    # The thread that pins batches asks CUDA for the host's memory: "Caught AcceleratorError in pin memory thread for
    # device 0. ... CUDA error: out of memory".
    r"DefaultCPUAllocator: (can't|not enough) (allocate )?memory|Cannot allocate memory"
    r"|in pin memory thread.*CUDA error: out of memory",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """What the parent saw of a trial that sent no result."""

    exit: Exited | None
    oom_kills: int
    """Kernel out-of-memory kills counted on this machine while it ran."""


def classify_exception(error: BaseException, *, is_device_memory: bool) -> Failed:
    """Return what an exception in the trial process means.

    Args:
        error: What was raised.
        is_device_memory: Whether the device says that its memory did not suffice.
    """
    text = _printable(_first_line(error))
    found = _match(error, str(error), is_device_memory=is_device_memory)
    if found is not None:
        state, cause, hint = found
        if _lost_a_worker(error) and cause is Cause.WORKER:
            text = f"a DataLoader worker ended while its batch was on the way ({text})"
        return Failed(state=state, cause=cause, message=text, hint=hint)
    hint = error.hint if isinstance(error, TargetError) else LOG_HINT
    message = _printable(error.what) if isinstance(error, TargetError) else text
    return Failed(state=TrialState.FAILED, cause=Cause.USER_CODE, message=message, hint=_printable(hint))


def _match(error: BaseException, text: str, *, is_device_memory: bool) -> tuple[TrialState, Cause, str] | None:
    if is_device_memory:
        return TrialState.OUT_OF_MEMORY, Cause.DEVICE_MEMORY, "use a smaller batch, crop or precision"
    if isinstance(error, TooManyBadSamplesError) or _BAD_SAMPLES.match(text):
        # Of one raised in a worker only the text arrives; the hint is its last line in either case.
        return TrialState.FAILED, Cause.BAD_SAMPLES, text.rstrip().splitlines()[-1]
    if isinstance(error, TargetError):
        return None
    if _SHARED_MEMORY.search(text):
        return TrialState.OUT_OF_MEMORY, Cause.SHARED_MEMORY, SHM_HINT
    if (isinstance(error, OSError) and error.errno == errno.EMFILE) or _OPEN_FILES.search(text):
        return TrialState.FAILED, Cause.OPEN_FILES, FILES_HINT
    if isinstance(error, MemoryError) or _HOST_MEMORY.search(text):
        return TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY, MEMORY_HINT
    if _WORKER.search(text) or _lost_a_worker(error):
        return TrialState.CRASHED, Cause.WORKER, WORKER_HINT
    return None


def explain(failed: Failed, ended: Ended, log_tail: str) -> tuple[TrialState, Failure]:
    """Return state and failure of a trial that said what went wrong; a kernel kill overrules "worker died"."""
    state, cause, message, hint = failed.state, failed.cause, failed.message, failed.hint
    if cause is Cause.WORKER and ended.oom_kills:
        state, cause, hint = TrialState.OUT_OF_MEMORY, Cause.HOST_MEMORY, MEMORY_HINT
        message = f"the kernel killed a worker for want of memory ({message})"
    return state, Failure(cause=cause, message=message, hint=hint, log_tail=log_tail)


def explain_exit(ended: Ended, log_tail: str) -> tuple[TrialState, Failure]:
    """Return state and failure of a trial that ended without a word."""
    exited = ended.exit
    number = None if exited is None else exited.signal
    code = None if exited is None else exited.exit_code

    def failure(cause: Cause, message: str, hint: str) -> Failure:
        return Failure(cause=cause, message=message, hint=hint, log_tail=log_tail, exit_code=code, signal=number)

    if number == signal.SIGKILL and ended.oom_kills:
        told = "the kernel killed the trial for want of memory"
        return TrialState.OUT_OF_MEMORY, failure(Cause.HOST_MEMORY, told, MEMORY_HINT)
    if number == signal.SIGBUS:
        told = "a write to shared memory failed (SIGBUS)"
        return TrialState.OUT_OF_MEMORY, failure(Cause.SHARED_MEMORY, told, SHM_HINT)
    if number is not None:
        told = f"the trial process was ended by {signal.Signals(number).name}"
        return TrialState.CRASHED, failure(Cause.SIGNAL, told, LOG_HINT)
    told = f"the trial process ended by itself with exit code {code}"
    return TrialState.CRASHED, failure(Cause.EXIT, told, LOG_HINT)


def _lost_a_worker(error: BaseException) -> bool:
    """Say whether a batch's shared memory was asked of a worker that had ended: torch tells it as a missing file.

    A worker that ends with code 0 (sys.exit, SIGINT) is noticed nowhere else, and a killed one often here first.
    """
    frames = traceback.walk_tb(error.__traceback__)
    is_on_its_way = any(frame.f_code.co_name == "rebuild_storage_fd" for frame, _ in frames)
    return isinstance(error, OSError | EOFError) and is_on_its_way


def _first_line(error: BaseException) -> str:
    """Return "ValueError: what it said"; of a worker's exception, that of its own traceback, not DataLoader's line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith("Caught "):
        last_frame = max((place for place, line in enumerate(lines) if line.startswith("  ")), default=0)
        return lines[min(last_frame + 1, len(lines) - 1)].strip()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _printable(text: str) -> str:
    """Return text that JSON can hold: a file name that is not UTF-8 keeps the rest of its letters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
