"""The command as people type it: what it prints, writes, refuses and returns."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from loadtune.cli import main
from loadtune.errors import UsageError
from loadtune.options import parse_seconds, parse_share
from loadtune.render.saved import read_report

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "nuclei"
GOLDEN = ROOT / "tests" / "golden" / "report-v1.json"
SHORT = ("--budget", "30s", "--step-time", "0.1", "--crop", "129", "--batch-size", "8", "--baseline", "num_workers=0")


def loadtune(*words: str, cwd: Path = ROOT, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "loadtune", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path, float]:
    """One whole probe of the demo data on a replayed GPU."""
    folder = tmp_path_factory.mktemp("probed")
    began_s = time.monotonic()
    done = loadtune("probe", "--dataset", str(DEMO), *SHORT, "--out", str(folder / "out"), cwd=folder)
    return done, folder / "out", time.monotonic() - began_s


def test_probe_answers_in_the_promised_order(probed: tuple[Any, Path, float]) -> None:
    """The device comes first, then now, use, ceiling, costs, took; then what to paste and what is next."""
    done, _, _ = probed
    assert done.returncode == 0, done.stderr
    labels = re.findall(r"^(device|data|now|use|ceiling|costs|took|why|paste|next)\b", done.stdout, re.MULTILINE)
    assert labels == ["device", "data", "now", "use", "ceiling", "costs", "took", "why", "paste", "next"]
    assert "replayed" in done.stdout.splitlines()[0]
    assert re.search(r"DataLoader\(dataset, batch_size=8, num_workers=\d+", done.stdout)


def test_probe_keeps_its_budget(probed: tuple[Any, Path, float]) -> None:
    """From start to answer no more than the budget and a tenth."""
    assert probed[2] <= 1.1 * 30


def test_probe_tells_each_trial_on_stderr(probed: tuple[Any, Path, float]) -> None:
    """A log has one line a trial, and stdout none of them."""
    done, folder, _ = probed
    trials = read_report(folder / "report.json").trials
    assert len(re.findall(r"^ *\d+/\d+  num_workers=", done.stderr, re.MULTILINE)) == len(trials)
    assert "spread" not in done.stdout.partition("why")[0]


def test_report_holds_what_other_programs_read(probed: tuple[Any, Path, float]) -> None:
    """The published names are there, and the whole fits the published schema."""
    report = json.loads((probed[1] / "report.json").read_text())
    jsonschema.validate(report, json.loads(loadtune("schema").stdout))
    answer = report["recommendation"]
    assert answer["verdict"] in {"FASTER", "SAME", "INCONCLUSIVE"}
    assert {"num_workers", "batch_size"} <= answer["settings"].keys()
    assert answer["rate_per_s"] > 0
    assert answer["baseline"]["settings"]["num_workers"] == 0
    assert {"estimate", "low", "high"} <= answer["speedup"].keys()
    assert answer["learning_rate"]["factor"] == 1.0
    assert report["ceilings"]["device_rate_per_s"] == pytest.approx(80, rel=0.1)
    assert report["seconds_spent"] > 0
    assert report["status"] == "complete"
    assert all({"state", "settings", "rate_per_s"} <= trial.keys() for trial in report["trials"])


def test_replayed_trials_show_the_utilisation_that_nvml_would_have(probed: tuple[Any, Path, float]) -> None:
    """Busy spans become samples, labelled as replayed."""
    trials = [trial for trial in read_report(probed[1] / "report.json").trials if trial.role in {"grid", "baseline"}]
    for trial in trials:
        assert trial.trace is not None
        assert trial.trace.gpu_is_replayed
        assert trial.trace.utilisation_mean_ratio is not None
        assert trial.measurement is not None
        assert trial.measurement.stall_ratio is not None
        assert trial.trace.utilisation_mean_ratio == pytest.approx(1 - trial.measurement.stall_ratio, abs=0.2)


def test_report_command_shows_the_same_answer_without_torch(probed: tuple[Any, Path, float], tmp_path: Path) -> None:
    """`loadtune report` prints what the probe printed and renders the same page; torch is not loaded for it."""
    done, folder, _ = probed
    page = tmp_path / "again.html"
    again = loadtune("report", str(folder / "report.json"), "--html", str(page))
    assert again.returncode == 0
    answer = done.stdout.partition("next:")[0]
    assert again.stdout.partition("next:")[0] == answer
    assert page.read_bytes() == (folder / "report.html").read_bytes()
    script = (
        f"import sys; from loadtune.cli import main; main(['report', {str(GOLDEN)!r}]); print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"


def test_nothing_is_overwritten_without_force(probed: tuple[Any, Path, float]) -> None:
    """A folder that holds a report is refused before anything starts."""
    refused = loadtune("probe", "--dataset", str(DEMO), *SHORT, "--out", str(probed[1]))
    assert refused.returncode == 6
    assert "--force" in refused.stderr
    assert refused.stdout == ""


def test_interrupt_gives_the_answer_there_is(tmp_path: Path) -> None:
    """Ctrl-C after a few trials: exit code 130, a report with what was measured, no process left."""
    command = [sys.executable, "-m", "loadtune", "probe", "--dataset", str(DEMO), *SHORT, "--fresh"]
    process = subprocess.Popen(
        [*command, "--budget", "90s", "--out", str(tmp_path / "out"), "--json", "-"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if re.match(r" *2/", line):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    report = json.loads(out)
    assert report["status"] == "interrupted"
    assert sum(trial["state"] == "complete" for trial in report["trials"]) >= 2
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--dataset", "no/such/folder"), 3, "no/such/folder"),
        (("--dataset", "tests/targets/handed_over.py:make_dict", *SHORT), 4, "no DataLoader takes"),
        (("--dataset", "tests/targets/unguarded.py:dataset", "--import-limit", "2", *SHORT), 4, "recommend()"),
        (("--dataset", "demo/nuclei", "--device", "gpu"), 2, "--device"),
        (("--dataset", "demo/nuclei", "--device", "replay:no.json"), 5, "no.json"),
        (("--dataset", "demo/nuclei", "--budget", "1s"), 2, "too short"),
        (("--dataset", "demo/nuclei", "--budget", "soon"), 2, "no duration"),
        (("--dataset", "demo/nuclei", "--out", "/proc/loadtune"), 6, "--out"),
        (("--dataset", "demo/nuclei", "--baseline", "workers=2"), 2, "--baseline"),
        (("--dataset", "demo/nuclei", "--baseline", "num_workers=0,batch_size=1"), 2, "BatchNorm"),
    ],
)
def test_bad_input_is_refused_in_two_lines(words: tuple[str, ...], code: int, told: str) -> None:
    """What happened, what to do, an exit code of its own, and no traceback."""
    done = loadtune("probe", *words, "--quiet")
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert [line.partition(":")[0].strip() for line in done.stderr.strip().splitlines()] == ["loadtune", "hint"]


def test_several_ranks_are_refused() -> None:
    """Under torchrun every rank would measure at once."""
    done = loadtune("probe", "--dataset", "demo/nuclei", env={"WORLD_SIZE": "2"})
    assert done.returncode == 2
    assert "--ranks-per-node" in done.stderr


def test_broken_samples_end_the_probe_beyond_the_limit(tmp_path: Path) -> None:
    """They are named, and what was measured until then is kept."""
    shutil.copytree(DEMO, tmp_path / "data")
    images = sorted((tmp_path / "data" / "images").iterdir())
    for image in images[: len(images) // 2]:
        image.write_bytes(image.read_bytes()[:100])
    done = loadtune("probe", "--dataset", str(tmp_path / "data"), *SHORT, "--quiet", "--out", str(tmp_path / "out"))
    assert done.returncode == 3
    assert "samples are broken" in done.stderr
    assert "--max-bad" in done.stderr
    report = read_report(tmp_path / "out" / "report.json")
    assert report.status == "failed"
    assert report.dataset.bad_sample_count > 1


def test_script_of_ones_own_is_probed_from_main(tmp_path: Path) -> None:
    """`recommend` takes classes of __main__, runs the script once, and returns arguments that DataLoader accepts."""
    script = tmp_path / "train.py"
    script.write_text(
        "import time, torch\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "print('started')\n"
        "class Waiting(Dataset):\n"
        "    def __len__(self): return 640\n"
        "    def __getitem__(self, number):\n"
        "        time.sleep(0.01)\n"
        "        return torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.int64)\n"
        "if __name__ == '__main__':\n"
        "    from loadtune import recommend\n"
        "    advice = recommend(DataLoader(Waiting(), batch_size=8, shuffle=True), step_time_s=0.02,\n"
        "                       budget='40s', quiet=True)\n"
        "    loader = DataLoader(Waiting(), shuffle=True, **advice.dataloader_kwargs)\n"
        "    print(len(loader), advice.report.recommendation.verdict.value, advice.dataloader_kwargs['num_workers'])\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    started, answer = run.stdout.splitlines()
    length, verdict, workers = answer.split()
    assert (started, length, verdict) == ("started", "80", "FASTER")
    assert int(workers) >= 2


def test_help_and_import_load_nothing_heavy() -> None:
    """`loadtune --help` and `import loadtune` load no torch, pandas, matplotlib or rich."""
    script = (
        "import sys, loadtune; from loadtune.cli import main; main(['--help']); "
        "print(sorted({'torch', 'pandas', 'matplotlib', 'numpy', 'jinja2'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_public_names_are_these() -> None:
    """Adding or losing a public name is a decision."""
    import loadtune as package

    assert sorted(package.__all__) == [
        "Advice", "LoadtuneError", "NoiseScale", "ProbeOptions", "Report", "__version__", "anneal", "probe",
        "recommend", "rescale",
    ]  # fmt: skip
    assert all(hasattr(package, name) for name in package.__all__)


def test_saved_report_gives_advice_again() -> None:
    """`recommend(path)` advises from a file."""
    from loadtune import recommend

    advice = recommend(GOLDEN)
    saved = msgspec.json.decode(GOLDEN.read_bytes())
    assert advice.batch_size == saved["recommendation"]["settings"]["batch_size"]
    assert advice.dataloader_kwargs["num_workers"] == saved["recommendation"]["settings"]["num_workers"]
    assert "paste" in str(advice)
    frame = advice.to_frame()
    assert list(frame["state"]) == [trial["state"] for trial in saved["trials"]]
    assert frame["rate_per_s"].max() == pytest.approx(max(trial["rate_per_s"] or 0 for trial in saved["trials"]))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0)])
def test_durations_are_read(text: str, seconds: float) -> None:
    """With or without a unit."""
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.05", 0.05), ("100%", 1.0)])
def test_shares_are_read(text: str, share: float) -> None:
    """As a percentage or a ratio."""
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["150%", "-1%", "some", ""])
def test_wrong_shares_are_refused(text: str) -> None:
    """Outside 0 to 1, or no number."""
    with pytest.raises(UsageError):
        parse_share(text)


def test_wrong_option_has_usage_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt option is a usage error, not a traceback."""
    assert main(["probe", "--datasat", "x"]) == 2
    assert "datasat" in capsys.readouterr().err
