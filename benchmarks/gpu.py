"""What does a GPU make of loadtune's claims? Run where a card is at hand: resumable, each part within its seconds.

    python -m benchmarks.gpu PART[=SECONDS] ... [--device cuda|replay] [--limit SECONDS] [--folder F] [--data FOLDER]
    python -m benchmarks.gpu --show [--folder F]
    python -m benchmarks.gpu profile=75 batch=45 jitter=80 tuning=130 --data photographs    # five and a half minutes

profile  steps and memory of DeepLabv3+ by backbone, precision, layout and batch; writes replay profiles
batch    throughput by batch, the knee, the learning rate there, and a low and steady GPU cured
jitter   the worlds of `benchmarks.jitter` on the real sampler, and what NVML's samples are
tuning   what others would set on photographs (--data: images/ and masks/), ours and the grid, by the device's ceiling

Every trial is saved when it is done, under reports/benchmarks/ or --folder, and a run goes on where the last one
stopped. All parts of one call share one process and its CUDA context; `tuning` asks loadtune's own command line as
well. `--device replay` rehearses all of it without a card, into reports/rehearsal/.
"""

import argparse
import json
import math
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import gpu_batch, gpu_jitter, gpu_profile, gpu_tuning
from benchmarks.gpu_bench import Bench, open_bench
from benchmarks.gpu_process import ROOT, KeptProcess
from benchmarks.record import REPORTS, Row
from loadtune.monitor.nvml import Nvml

PARTS: dict[str, tuple[Callable[[Bench], None], Callable[[list[Row]], list[str]]]] = {
    "profile": (gpu_profile.run, gpu_profile.tabulate),
    "batch": (gpu_batch.run, gpu_batch.tabulate),
    "jitter": (gpu_jitter.run, gpu_jitter.tabulate),
    "tuning": (gpu_tuning.run, gpu_tuning.tabulate),
}
"""What runs each part, and what shows its rows."""
REHEARSAL_FOLDER = ROOT / "reports" / "rehearsal"


def main() -> None:
    """Run the parts asked for, one after the other, and show what there is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART[=SECONDS]", help=", ".join(PARTS))
    parser.add_argument("--device", choices=("cuda", "replay"), default="cuda")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds of each part that names none")
    parser.add_argument("--folder", type=Path, help="where records and profiles are saved")
    parser.add_argument("--data", type=Path, help="photographs: images/ and masks/")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    try:
        limits = read_parts(asked.parts, asked.limit)
    except ValueError as error:
        parser.error(str(error))
    if asked.data is not None and not asked.data.is_dir():
        parser.error(f"--data {asked.data} is no folder")
    folder = (asked.folder or (REPORTS if asked.device == "cuda" else REHEARSAL_FOLDER)).resolve()
    if not asked.show:
        run(limits, asked.device, folder, None if asked.data is None else asked.data.resolve())
    for part in limits or PARTS:
        show(part, folder)


def read_parts(words: list[str], limit_s: float) -> dict[str, float]:
    """Return the seconds of each part asked for: its own, or `limit_s`.

    Raises:
        ValueError: There is no such part, or its seconds are none.
    """
    limits = {}
    for word in words:
        part, _, seconds = word.partition("=")
        if part not in PARTS:
            raise ValueError(f"{part!r} is no part: give {', '.join(PARTS)}")
        limits[part] = float(seconds) if seconds else limit_s
        if not limits[part] > 0:
            raise ValueError(f"{word!r}: give seconds above 0")
    return limits


def run(limits: dict[str, float], device: str, folder: Path, data: Path | None) -> None:
    """Run parts, each to its limit; one that fails leaves the others to run."""
    with ExitStack() as stack:
        nvml = Nvml.open()
        stack.callback(nvml.close)
        process = stack.enter_context(KeptProcess())
        for part, limit_s in limits.items():
            bench = open_bench(part, device, folder, time.monotonic() + limit_s, process, nvml, data)
            bench.say(f"{part}: {len(bench.record['rows'])} rows from before")
            try:
                PARTS[part][0](bench)
            except Exception as error:  # noqa: BLE001 - on a lent card no part may cost the others
                traceback.print_exc()
                bench.say(f"{part} ended: {type(error).__name__}: {error}")


def show(part: str, folder: Path) -> None:
    """Print what a part's record holds, whatever machine it is from."""
    path = folder / f"gpu_{part}.json"
    if not path.exists():
        print(f"{part}: nothing in {path}")
        return
    record: dict[str, Any] = json.loads(path.read_text())
    gpu = record.get("gpu", {}).get("name", "a replayed device")
    print(f"\n{part}, {gpu}, {record['started']}")
    for line in PARTS[part][1](record["rows"]):
        print(line)
    for each in record["criteria"]:
        state = {True: "met", False: "NOT MET", None: "not measured"}[each["met"]]
        value = "" if each["value"] is None else f"{each['value']:.3g}, "
        print(f"{state:13} {each['name']}: {value}{each['target']}")


if __name__ == "__main__":
    main()
