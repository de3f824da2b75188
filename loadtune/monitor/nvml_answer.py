"""What does a call of NVML give: a value, or a refusal in words? And which of a device's readings are refused for good?

The binding is handed in, so that nothing is imported here.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from loadtune.monitor.gpu import READINGS


class Code(IntEnum):
    """The return codes of nvml.h that are told apart here."""

    UNINITIALIZED = 1
    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    VERSION_MISMATCH = 18
    ARGUMENT_VERSION_MISMATCH = 25
    DEPRECATED = 26


_WORDS: dict[int, str] = {
    Code.INVALID_ARGUMENT: "the driver does not know what is asked for",
    Code.NOT_SUPPORTED: "the GPU or its driver does not support it",
    Code.NO_PERMISSION: "the driver gives no permission",
    Code.NOT_FOUND: "the driver knows no such thing",
    Code.DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    Code.LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 not found: no NVIDIA driver, or a container without it",
    Code.FUNCTION_NOT_FOUND: "the driver is too old for it",
    Code.GPU_IS_LOST: "the GPU is lost: it fell off the bus or has an error",
    Code.RESET_REQUIRED: "the GPU must be reset",
    Code.VERSION_MISMATCH: "NVML and the kernel's NVIDIA driver have different versions",
    Code.DEPRECATED: "the driver no longer has it",
}
_GONE = {
    Code.UNINITIALIZED,
    Code.DRIVER_NOT_LOADED,
    Code.GPU_IS_LOST,
    Code.RESET_REQUIRED,
    Code.VERSION_MISMATCH,
}
NEVER = {
    Code.INVALID_ARGUMENT,
    Code.NOT_SUPPORTED,
    Code.NO_PERMISSION,
    Code.FUNCTION_NOT_FOUND,
    Code.ARGUMENT_VERSION_MISMATCH,
    Code.DEPRECATED,
}
"""Refusals that another try will not change."""

BINDING_TOO_OLD = "the installed nvidia-ml-py is too old for it"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave: a value, or the code of the refusal."""

    value: Any = None
    code: int | None = None
    words: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether there is no value."""
        return self.code is not None


def name_refusal(code: int, told: object = "") -> str:
    """Return a return code in words."""
    return _WORDS.get(code) or f"NVML error {code}: {told}".rstrip(": ")


def ask(api: Any, name: str, *arguments: Any) -> Answer:
    """Call a function of pynvml by name; an old pynvml that lacks it counts as an old driver."""
    call = getattr(api, name, None)
    if call is None:
        return Answer(code=Code.FUNCTION_NOT_FOUND, words=BINDING_TOO_OLD)
    try:
        return Answer(value=call(*arguments))
    except api.NVMLError as error:
        # Where the driver says success but has no rows, pynvml raises NVMLError with value 0: nothing found.
        code = error.value or Code.NOT_FOUND
        return Answer(code=code, words=name_refusal(code, error))


class Device:
    """One device's handle, and which of its readings the driver refuses.

    Args:
        api: pynvml, or what stands for it in a test.
        handle: NVML's device handle.
        uuid: As NVML names it: "GPU-..." or "MIG-...".
    """

    def __init__(self, api: Any, handle: Any, uuid: str) -> None:
        self.api, self.handle, self.uuid = api, handle, uuid
        self.reasons: dict[str, str] = {}
        """Reading to the reason why it is None from now on."""
        self.lost_reason: str | None = None
        """Why the GPU stopped answering altogether; None: it has not."""

    def ask(self, reading: str, name: str, *arguments: Any) -> Answer:
        """Ask about this device; a refusal that will not change drops the reading."""
        answer = ask(self.api, name, self.handle, *arguments)
        if answer.code in NEVER:
            self.drop(reading, answer.words)
        self.note_lost(answer)
        return answer

    def read(self, reading: str, name: str, *arguments: Any) -> Any:
        """Return the value, or None; a reading that was dropped is not asked for again."""
        return None if self.is_dropped(reading) else self.ask(reading, name, *arguments).value

    def is_dropped(self, reading: str) -> bool:
        """Say whether there is no use in asking."""
        return self.lost_reason is not None or reading in self.reasons

    def drop(self, reading: str, reason: str) -> None:
        """Do without a reading from now on."""
        self.reasons.setdefault(reading, reason)

    def note_lost(self, answer: Answer) -> None:
        """Drop everything where the answer says that the GPU is gone."""
        if answer.code in _GONE and self.lost_reason is None:
            self.lost_reason = answer.words
            for reading in READINGS:
                self.drop(reading, answer.words)
