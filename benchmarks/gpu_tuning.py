"""How much of this card does each way to set a DataLoader reach on photographs? Others' rules, ours, and the grid.

DeepLabv3+ on JPEGs at 513 px, bf16 on a card. Each setting is one trial; ours is a fresh command line,
`loadtune probe --search guided`, whose duel is against num_workers=4 with pin_memory. Shares are of the device's own
ceiling, a resident batch. The few photographs are listed often enough for an epoch that no setting comes to the end
of; every one is decoded anew, from the page cache.

RIVAL_CLAIM is what the PyPI package `loadtune` claims over num_workers=0. It is not run.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from benchmarks.gpu_bench import Bench, describe_gpu, resident_spec, why_not
from benchmarks.gpu_process import ROOT
from benchmarks.record import Criterion, Row, at_least
from loadtune.advice.search import Leg
from loadtune.dataset.detect import list_dataset
from loadtune.engine.runner import Runner
from loadtune.options import ProbeOptions
from loadtune.planning import Plan, make_plan, wanted_cuda, workload_to_look_at
from loadtune.records.messages import InspectTask, Sources
from loadtune.records.report import Report
from loadtune.records.settings import MeasureOptions, Settings
from loadtune.render.saved import read_report

BATCH = 16
PROBE_BUDGET_S = 140.0
"""Of our own answer, its duel included."""
PROBE_COST_S = PROBE_BUDGET_S + 12.0
"""Seconds to leave for it: the command ends a little after its budget."""
CELL_COST_S = 20.0
RESTART_S = 8.0
"""Of a new process: torch, a context, cuDNN."""
MEASURE_S, CAP_S = 5.0, 12.0
"""Seconds in windows: two bursts of 16 workers. Past the cap, what there is counts: few batches, if they are slow."""
SAMPLES = 4096
"""Samples listed. 256 batches: more than the fastest setting takes in a trial."""
RIVAL_CLAIM = 5.65
"""Times num_workers=0, from the description of the PyPI package loadtune 0.3.0."""
PINNED = "num_workers=4 with pin_memory"
"""What people write without measuring, and what ours is set against."""
WANTED_FIRST = ("num_workers=0", PINNED)
"""Measured before ours is asked for; the others only where time is left for it."""
OURS = "loadtune"
CEILING = "the device alone"


def rivals(cores: int) -> dict[str, Settings]:
    """Return what others would set, by name, in order of worth."""
    return {
        "num_workers=0": Settings(num_workers=0, batch_size=BATCH),
        PINNED: Settings(num_workers=4, batch_size=BATCH, pin_memory=True),
        "torch's suggestion, num_workers=cores": Settings(num_workers=cores, batch_size=BATCH),
        "Lightning's rule, cores - 1": Settings(num_workers=max(1, cores - 1), batch_size=BATCH),
    }


def grid(cores: int) -> dict[str, Settings]:
    """Return the grid's settings by name, in order of worth: around the cores first."""
    counts = dict.fromkeys((cores // 2, 2 * cores, 3 * cores // 4, 3 * cores // 2, cores // 4, 2, 1))
    plain = {f"grid, num_workers={each}": Settings(num_workers=each, batch_size=BATCH) for each in counts if each}
    pinned = Settings(num_workers=cores, batch_size=BATCH, pin_memory=True)
    return {f"grid, num_workers={cores} with pin_memory": pinned, **plain}


def run(bench: Bench) -> None:
    """Measure the settings that are missing and fit into the limit, then ask loadtune."""
    source = bench.data or ROOT / "demo" / "nuclei"
    with repeated(source) as folder:
        _measure_settings(bench, folder)
        if not bench.has(variant=OURS) and bench.left_s() >= PROBE_COST_S:
            bench.process.close()  # its context would be another user of the card
            bench.say(f"asking loadtune, {PROBE_BUDGET_S:g} s")
            with bench.noting(variant=OURS, device=bench.device) as rows:
                rows.append(_ask_ours(bench, folder))
            bench.say(f"loadtune: {rows[0].get('settings') or rows[0]['failure']}")
        if bench.left_s() >= RESTART_S + CELL_COST_S:
            _measure_settings(bench, folder)
    bench.save(judge(bench.record["rows"]))


@contextmanager
def repeated(source: Path) -> Iterator[Path]:
    """Give a folder that lists the pairs of another often enough, by links within it; hard links count once."""
    images = list({each.stat().st_ino: each for each in reversed(_files(source / "images"))}.values())
    stems = {each.stem for each in images}
    masks = [each for each in _files(source / "masks") if any(_is_of(each.stem, stem) for stem in stems)]
    with TemporaryDirectory(prefix="photographs-") as name:
        folder = Path(name)
        for kind, files in (("images", images), ("masks", masks)):
            (folder / kind).mkdir()
            for file in files:
                copyfile(file, folder / kind / f"0000-{file.name}")
                for copy in range(1, -(-SAMPLES // len(images))):
                    (folder / kind / f"{copy:04}-{file.name}").symlink_to(f"0000-{file.name}")
        yield folder


def _is_of(mask: str, image: str) -> bool:
    """Say whether a mask's stem is an image's, a suffix apart."""
    return mask.startswith(image) and not mask[len(image) : len(image) + 1].isalnum()


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_file())


def _measure_settings(bench: Bench, folder: Path) -> None:
    listing = list_dataset(folder)
    if listing.index is None:
        raise SystemExit(f"{folder} holds no pairs of files")
    try:
        sources = Sources(index_path=listing.index.shared_path)
        runner = bench.runner(sources)
        options = bench.options(batch_size=str(BATCH))
        workload = workload_to_look_at(options, None, listing.masks, listing.stored, listing.sample_count)
        task = InspectTask(workload=workload, sources=sources, batch_size=BATCH, cuda_index=wanted_cuda(options))
        looked = runner.inspect(task)
        plan = make_plan(options, workload, bench.limits, looked)
        if looked.cuda is not None:
            bench.record["gpu"] = {"name": looked.cuda.name, "memory_bytes": looked.cuda.memory_bytes}
        bench.record["data"] = _describe_data(folder)
        if not bench.has(variant=CEILING):
            _measure_ceiling(bench, runner, plan)
        cores = int(bench.limits.usable_cores)
        for name, settings in {**rivals(cores), **grid(cores)}.items():
            wanted_s = needed_s(name, has_ours=bench.has(variant=OURS))
            if not bench.has(variant=name) and bench.left_s() >= wanted_s:
                _measure(bench, runner, plan, name, settings)
    finally:
        listing.index.close()


def needed_s(name: str, *, has_ours: bool) -> float:
    """Return the seconds that must be left to measure a setting: only the first may use those of our own answer."""
    return CELL_COST_S if has_ours or name in WANTED_FIRST else CELL_COST_S + PROBE_COST_S


def _measure_ceiling(bench: Bench, runner: Runner, plan: Plan) -> None:
    with bench.noting(variant=CEILING, device=bench.device) as rows:
        trial = bench.run(runner, *resident_spec(plan, BATCH, 3.0))
        rows.append({"quantity": "rate", "value": trial.rate_per_s, "unit": "samples/s", "failure": why_not(trial)})
        rows[0] |= describe_gpu(trial)
    bench.say(f"{CEILING}: {trial.rate_per_s} samples/s")


def _measure(bench: Bench, runner: Runner, plan: Plan, name: str, settings: Settings) -> None:
    leg = Leg(settings=settings, role="grid", measure_s=MEASURE_S)
    options = MeasureOptions(measure_s=MEASURE_S, warm_up_s=3.0, cap_s=CAP_S)
    spec = msgspec.structs.replace(plan.spec(leg, "warm", 0, 0), measure=options)
    with bench.noting(variant=name, device=bench.device) as rows:
        trial = bench.run(runner, spec, leg)
        rows.append({"quantity": "rate", "value": trial.rate_per_s, "unit": "samples/s", "failure": why_not(trial)})
        rows[0] |= {"settings": describe(settings), "seconds": trial.seconds_spent, **describe_gpu(trial)}
        if trial.measurement is not None:
            rows[0] |= {"stall_ratio": trial.measurement.stall_ratio, "notes": list(trial.measurement.notes)}
    bench.say(f"{name}: {trial.rate_per_s or why_not(trial)} samples/s ({trial.seconds_spent:.1f} s)")


def _ask_ours(bench: Bench, folder: Path) -> Row:
    """Return the answer of a fresh command line, its duel against PINNED, and its ceiling."""
    options: ProbeOptions = bench.options(batch_size=str(BATCH))
    command = [sys.executable, "-m", "loadtune", "probe", "--dataset", str(folder), "--search", "guided"]
    command += ["--batch-size", str(BATCH), "--baseline", "num_workers=4,pin_memory=true", "--channels-last"]
    command += ["--device", "cuda"] if bench.device == "cuda" else ["--step-time", str(options.step_time_s)]
    saved = bench.folder / "gpu_tuning_report.json"
    saved.unlink(missing_ok=True)
    with TemporaryDirectory() as out:
        command += ["--json", str(saved), "--out", f"{out}/report", "--quiet", "--fresh"]
        command += ["--budget", f"{PROBE_BUDGET_S:g}s", "--redact"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=2 * PROBE_COST_S, cwd=ROOT, check=False
            )
            failure = done.stderr[-500:]
        except subprocess.TimeoutExpired:
            failure = f"no answer within {2 * PROBE_COST_S:g} s"
    row: Row = {"quantity": "rate", "value": None, "unit": "samples/s", "failure": failure}
    return row if not saved.exists() else {**row, **read_answer(read_report(saved))}


def read_answer(report: Report) -> Row:
    """Return what a report recommends, as a row."""
    told = report.recommendation
    if told is None:
        return {"failure": "it recommends nothing"}
    speedup = told.speedup
    return {
        "value": told.rate_per_s,
        "failure": None,
        "settings": describe(told.settings),
        "verdict": told.verdict.value,
        "over_pinned": [speedup.estimate, speedup.low, speedup.high],
        "over_pinned_reason": speedup.reason,
        "ceiling_per_s": report.ceilings.device_rate_per_s,
        "reached_ratio": report.ceilings.reached_ratio,
        "seconds": report.seconds_spent,
        "trials": len(report.trials),
        "findings": [each.title for each in report.findings],
    }


def describe(settings: Settings) -> str:
    """Name a setting in DataLoader's words, without its batch."""
    words = {name: value for name, value in settings.dataloader_kwargs().items() if name != "batch_size"}
    return ", ".join(f"{name}={value}" for name, value in words.items())


def _describe_data(folder: Path) -> dict[str, Any]:
    """Return what the photographs are: their number, bytes and megapixels."""
    from PIL import Image

    files = sorted((folder / "images").glob("0000-*"))
    pixels = []
    for file in files:
        with Image.open(file) as image:
            pixels.append(image.width * image.height / 1e6)
    return {
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "megapixels": [round(min(pixels), 2), round(max(pixels), 2)],
        "format": files[0].suffix,
    }


def shares(rows: Sequence[Row]) -> dict[str, tuple[float, float | None, float | None]]:
    """Return each answer's share of the device's ceiling, and its rate by PINNED's and by num_workers=0's.

    Ours is by its own trial, ceiling and duel; the others are by one trial each.
    """
    rates = {row["variant"]: row["value"] for row in rows if row["value"]}
    ceiling, pinned, alone = (rates.get(each) for each in (CEILING, PINNED, "num_workers=0"))
    if ceiling is None:
        return {}
    return {
        name: (rate / ceiling, rate / pinned if pinned else None, rate / alone if alone else None)
        for name, rate in rates.items()
        if name != CEILING
    }


def judge(rows: Sequence[Row]) -> list[Criterion]:
    """Return what is promised of ours: near the best of the grid, and no slower than what people write."""
    found = shares(rows)
    others = {name: share for name, share in found.items() if name != OURS}
    if OURS not in found or not others:
        return []
    ours, best = found[OURS], max(share[0] for share in others.values())
    duel = next((row["over_pinned"][0] for row in rows if row["variant"] == OURS and row.get("over_pinned")), None)
    over_alone = [] if ours[2] is None else [ours[2]]
    return [
        at_least("share of the device's ceiling by the best of all settings'", 0.95, "", [ours[0] / best]),
        at_least("times num_workers=4 with pin_memory, by the duel", 1.0, "", [] if duel is None else [duel]),
        at_least("times num_workers=0; the PyPI package claims as much", RIVAL_CLAIM, "", over_alone),
    ]


def tabulate(rows: Sequence[Row]) -> list[str]:
    """Return a line an answer: its setting, rate, share of the ceiling, and rate by the two others."""
    heads = f"{'samples/s':>11}{'of ceiling':>12}{'by pinned 4':>13}{'by 0':>8}"
    lines = [f"{'':42}{heads}  setting"]
    found = shares(rows)
    for row in rows:
        if row["value"] is None:
            lines.append(f"{row['variant']:42}  {row['failure']}")
            continue
        share = found.get(row["variant"])
        cells = "" if share is None else f"{100 * share[0]:>10.1f} %" + "".join(
            f"{'' if each is None else f'{each:.2f}x':>{width}}" for each, width in zip(share[1:], (13, 8), strict=True)
        )  # fmt: skip
        lines.append(f"{row['variant']:42}{row['value']:>11.1f}{cells}  {row.get('settings', '')}{_duel(row)}")
    return lines


def _duel(row: Row) -> str:
    """Return what ours won against PINNED, in words; nothing for the others."""
    duel = row.get("over_pinned")
    if duel is None or duel[0] is None:
        return ""
    return f"; duel {duel[0]:.3g}x [{duel[1]:.3g} {duel[2]:.3g}], {row['verdict']}"
