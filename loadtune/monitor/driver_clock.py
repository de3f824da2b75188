"""On which clock does the GPU driver stamp its samples, and when is that on time.monotonic()?

NVML does not say: reports name microseconds since the epoch and microseconds since boot. It asks no driver itself.
"""

import time
from collections.abc import Callable

UNKNOWN_CLOCK_S = 3600.0
"""A stamp further than this from every known clock is on a clock of its own. Far above the age of an idle ring's
newest sample, far below what separates the epoch from a boot; smaller values would mistake an old sample."""

AHEAD_MAX_S = 1.0
"""A sample cannot be taken later than now. More than rounding and clock slew ahead: not this clock after all."""


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DriverClock:
    """Tells how far driver stamps are from time.monotonic(); decided at the first stamp, kept from then on.

    Args:
        monotonic: The trace's clock, seconds.
        wall: Seconds since the epoch.
        boot: Seconds since boot, sleep included.
    """

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = _boot_s,
    ) -> None:
        self._monotonic = monotonic
        self._known = {"monotonic": monotonic, "boot": boot, "epoch": wall}
        self._clock: Callable[[], float] | None = None
        self._arrival_offset_s = 0.0
        self.domain: str | None = None
        """Which clock was found: "epoch", "boot", "monotonic" or "arrival"; None before the first stamp."""

    def offset_s(self, newest_s: float) -> float:
        """Return what is to be added to a driver stamp, in seconds, to have it on time.monotonic().

        Args:
            newest_s: The newest stamp at hand. On an unknown clock it is taken to be now.
        """
        if self.domain is None:
            self._decide(newest_s)
        if self._clock is None:
            return self._arrival_offset_s
        # Taken anew each time: the wall clock may be stepped, and its stamps step with it.
        return self._monotonic() - self._clock()

    def _decide(self, newest_s: float) -> None:
        ages_s = {name: clock() - newest_s for name, clock in self._known.items()}
        possible = {name: age for name, age in ages_s.items() if -AHEAD_MAX_S <= age <= UNKNOWN_CLOCK_S}
        if possible:
            self.domain = min(possible, key=lambda name: abs(possible[name]))
            self._clock = self._known[self.domain]
        else:
            self.domain = "arrival"
            self._arrival_offset_s = self._monotonic() - newest_s
