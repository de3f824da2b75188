"""Does the guided search find what the full grid finds, sooner than others, and with fewer workers?

    python -m benchmarks.tuning [--quick] [--limit SECONDS] [--show] [--simulate SEEDS] [--rival-python PATH]

A unit is a world of `tuning_worlds` and a seed. It measures every setting of the grid, twice where the best may lie
(the oracle), takes everyone's answer (`tuning_rivals`, and ours from a fresh command line), and then sets every
distinct answer against the oracle's best in a duel of live processes. The share of an answer is its rate by the
oracle's, from that duel.

Each unit is a process of its own, behind the world's own limit where it has one (`tuning_places`), and saves every
trial, answer and duel as it is done: what was cut short goes on where it stopped. With --quick, two worlds with one
seed: about ten minutes. --simulate plays the same worlds on made-up surfaces, many seeds in seconds; one of them is the
third scored seed.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.record import REPORTS, Row, now, save
from benchmarks.tuning_picture import draw
from benchmarks.tuning_places import entered, lacking
from benchmarks.tuning_rows import Unit, read_units, select
from benchmarks.tuning_scores import falls_short, judge, tabulate
from benchmarks.tuning_settings import SEEDS, SIMULATED_SEED, VERSION, place
from benchmarks.tuning_simulated import simulate
from benchmarks.tuning_unit import NAME, ROOT, open_record
from benchmarks.tuning_worlds import WORLDS

QUICK = ("network", "held_memory")
UNIT_COST_S = 360.0
"""Seconds that a unit may take, for --limit."""
WORLD = "world"
"""Quantity of the row that says why a world was not run here."""


def main() -> None:
    """Run the units that are missing and fit into the limit, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two worlds, one seed")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no unit is begun")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--fast", action="store_true", help="shortened, to see that it runs; not scored")
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="0 and 1 for setting thresholds")
    parser.add_argument("--simulate", type=int, metavar="SEEDS", help="play so many seeds in simulation instead")
    parser.add_argument("--rival-python", help="a Python that has PyPI's loadtune 0.3.0; without it, it is not run")
    asked = parser.parse_args()
    if asked.simulate is not None:
        play(asked.simulate, asked.worlds or list(WORLDS))
        return
    name = f"{NAME}_fast" if asked.fast else NAME
    failed = [] if asked.show else run_units(name, asked)
    record = open_record(name)
    rows = [row for row in record["rows"] if row["seed"] in asked.seeds]
    if asked.seeds == list(SEEDS):
        save(record, judge(rows))
    tell(rows)
    if read_units(rows) and not asked.fast:
        draw(rows, REPORTS / f"{NAME}_anytime.svg")
    if failed:
        raise SystemExit(f"ended with an error: {', '.join(failed)}")


def run_units(name: str, asked: argparse.Namespace) -> list[str]:
    """Run what is missing and fits into the limit; return the units that ended with an error."""
    ends_s = time.monotonic() + asked.limit
    worlds = asked.worlds or (QUICK if asked.quick else WORLDS)
    failed = []
    for seed in asked.seeds[:1] if asked.quick else asked.seeds:
        for world in worlds:
            if time.monotonic() + UNIT_COST_S > ends_s:
                return failed
            if not run_unit(name, world, seed, asked):
                failed.append(f"{world} {seed}")
    return failed


def run_unit(name: str, world: str, seed: int, asked: argparse.Namespace) -> bool:
    """Run one unit where it belongs, or note why it cannot be run here; say whether that went well."""
    record = open_record(name)
    if Unit(select(record["rows"], world=world, seed=seed)).is_done:
        return True
    where = place(world, seed)
    reason = lacking(where)
    if reason is not None:
        keys: Row = {"worlds": VERSION, "world": world, "seed": seed, "part": "lacking", "quantity": WORLD}
        record["rows"] = [row for row in record["rows"] if not keys.items() <= row.items()]
        record["rows"].append({**keys, "value": None, "unit": "", "started": now(), "reason": reason})
        save(record)
        return True
    command = [sys.executable, "-m", "benchmarks.tuning_unit", world, str(seed)]
    command += ["--rival-python", asked.rival_python] if asked.rival_python else []
    command += ["--fast"] if asked.fast else []
    with entered(where) as prefix:
        code = subprocess.run([*prefix, *command], cwd=ROOT, check=False).returncode
    unit = Unit(select(open_record(name)["rows"], world=world, seed=seed))
    if code == 0:
        answer = unit.answers["loadtune"]
        print(f"{now()} {world} {seed}: best {unit.best}, ours {answer.point}, {unit.seconds:.0f} s", flush=True)
    return code == 0


def play(count: int, worlds: list[str]) -> None:
    """Simulate so many seeds; keep the rows of the first, which is scored, and show where any of them fell short."""
    rows = simulate(count, worlds)
    if worlds == list(WORLDS):
        record = open_record(f"{NAME}_simulated")
        record["rows"] = [row for row in rows if row["seed"] == SIMULATED_SEED]
        save(record, judge(rows))
    tell(rows, falls_short)


def tell(rows: list[Row], is_shown: Callable[[Unit], bool] = lambda unit: True) -> None:
    """Print the tables and the criteria."""
    for line in tabulate(rows, is_shown):
        print(line)
    for criterion in judge(rows):
        state = {True: "met", False: "NOT MET", None: "not measured"}[criterion.met]
        print(f"{state:13} {criterion.name}: {criterion.value}, {criterion.target}")


if __name__ == "__main__":
    main()
