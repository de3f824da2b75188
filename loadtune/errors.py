"""What can go wrong before or around a measurement, and how each error is told to a person.

The tree::

    LoadtuneError                 exit code 1
    |-- UsageError                2   an option or a combination of options that cannot work
    |-- DatasetError              3   the data set cannot be used
    |   |-- UnrecognisedLayoutError
    |   |-- AmbiguousLayoutError
    |   `-- TooManyBadSamplesError
    |-- TargetError               4   the user's own code could not be imported or has the wrong shape
    |-- DeviceError               5   the device asked for cannot be used
    |-- OutputError               6   a report cannot be written or read
    |-- EnvironmentConflictError  7   the installation is not what it should be
    |-- EngineError               8   the trial server died or did not start
    `-- NothingMeasuredError      9   every trial failed, so there is nothing to say

A failed trial is not in this tree: it is a `TrialResult` with its own state, and the probe goes on. Nor is what
`loadtune verify` (exit codes 10, 11) and `loadtune doctor` (12: a warning, 13: an error) find: that is their answer.
Each error carries `what` (one line: what happened) and `hint` (one line: what to do about it).
"""

from typing import ClassVar


class LoadtuneError(Exception):
    """An expected failure: shown as two lines and an exit code, never as a traceback.

    Args:
        what: One line that says what happened, with the offending value.
        hint: One line that says what to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}"

    def __reduce__(self) -> tuple[type["LoadtuneError"], tuple[str, str]]:
        return type(self), (self.what, self.hint)


class UsageError(LoadtuneError):
    """An option, or a combination of options, that cannot work."""

    exit_code = 2


class DatasetError(LoadtuneError):
    """The data set cannot be used."""

    exit_code = 3


class UnrecognisedLayoutError(DatasetError):
    """No known layout fits the folder."""


class AmbiguousLayoutError(DatasetError):
    """Several layouts fit the folder equally well."""


class TooManyBadSamplesError(DatasetError):
    """More samples were broken than `--max-bad` allows."""


class TargetError(LoadtuneError):
    """The user's own code could not be imported, or did not give what it should."""

    exit_code = 4


class DeviceError(LoadtuneError):
    """The device that was asked for cannot be used."""

    exit_code = 5


class OutputError(LoadtuneError):
    """A report cannot be written, or a saved one cannot be read."""

    exit_code = 6


class EnvironmentConflictError(LoadtuneError):
    """The installation is not what it should be (another distribution owns the same package name)."""

    exit_code = 7


class EngineError(LoadtuneError):
    """The trial server did not start, or died."""

    exit_code = 8


class NothingMeasuredError(LoadtuneError):
    """Every trial failed, so there is nothing to recommend."""

    exit_code = 9
