"""Plays scenarios to the real pynvml in a process of its own: `python -m tests.nvml_player SCENARIOS.json`.

LD_LIBRARY_PATH leads to the stub of `tests/stubs`. Time is played: nothing sleeps, and the stub's clock follows. For
each scenario the trace goes to stdout that a probe would have kept, with the GPUs and the readings of the report.
"""

import json
import os
import sys
import time
from ctypes import CDLL, c_char_p, c_double
from pathlib import Path

START_S, EPOCH_S, BOOT_AHEAD_S = 5000.0, 1_790_000_000.0, 50.0
TICK_S = 0.5
OWN_PID = 4711


class Played:
    """The clock of everything."""

    now_s = START_S


def main() -> None:
    """Play what the file holds."""
    patch_time()
    import msgspec

    stub = CDLL("libnvidia-ml.so.1")
    stub.stub_play.argtypes, stub.stub_set_now.argtypes = [c_char_p], [c_double]
    scenarios = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    seen = {name: play(stub, **scenario) for name, scenario in scenarios.items()}
    sys.stdout.buffer.write(msgspec.json.encode(seen))


def patch_time():
    """Put the played clock in place of all others, before loadtune is imported: its readers take them as defaults."""
    real = time.clock_gettime
    time.monotonic = lambda: Played.now_s
    time.time = lambda: EPOCH_S + Played.now_s
    time.clock_gettime = lambda clock: Played.now_s + BOOT_AHEAD_S if clock == time.CLOCK_BOOTTIME else real(clock)


def play(stub, script, uuid, seconds=16.0, measuring=(3.0, 13.0), environ=None, shares_pids=True):
    """Watch a trial on one GPU for so long, as the sampler does, and return what a report would hold."""
    from loadtune.monitor.host import read_limits
    from loadtune.monitor.nvml import Nvml
    from loadtune.monitor.readings import find_readings
    from loadtune.monitor.sampler import Sampler

    assert stub.stub_play(script.encode()) == 0, f"{script} is no script"
    Played.now_s = START_S
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        os.environ.pop(name, None)
    os.environ.update(environ or {})
    stub.stub_set_now(0.0)
    nvml = Nvml.open()
    gpus = nvml.gpus()
    sampler = Sampler((), nvml, trees=(Tree(),), shares_pids=shares_pids)
    sampler.use_gpu(uuid)
    for _ in range(round(seconds / TICK_S)):
        sampler.tick()
        Played.now_s += TICK_S
        stub.stub_set_now(Played.now_s - START_S)
    sampler.mark_measuring(*(START_S + at_s for at_s in measuring))
    trace = sampler.stop()
    readings = find_readings("cuda", read_limits(), nvml, uuid, trace)
    nvml.close()
    return {"reason": nvml.reason, "gpus": gpus, "left_out": nvml.unavailable, "trace": trace, "readings": readings}


class Tree:
    """The trial's process tree: one process, which does nothing on this host."""

    root_pid = OWN_PID
    pids = frozenset({OWN_PID})
    io_reason = pss_reason = None
    pss_processes = 1
    pss_file_bytes = None

    def read(self):
        from loadtune.monitor.tree import TreeReading

        return TreeReading(0.0, 0.0, 1000, 1, None, None)

    def read_pss_bytes(self):
        return None

    def close(self):
        pass


if __name__ == "__main__":
    main()
