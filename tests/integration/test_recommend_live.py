"""Does `recommend()` work where people call it: in a script, in a notebook, under torchrun, twice, as README shows?"""

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

ROOT = Path(__file__).resolve().parents[2]

PRELUDE = '''
import random, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Waiting(Dataset):
    """Classes of the script itself: nothing else can import them."""
    def __len__(self):
        return 96
    def __getitem__(self, number):
        time.sleep(0.01)
        return torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.int64)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
    def forward(self, images):
        return self.conv(images)

dataset, model = Waiting(), Net()
'''

RANKED = (
    PRELUDE
    + """
import json, os, sys
from loadtune import recommend

if __name__ == "__main__":
    if os.environ["FORM"] == "group":
        torch.distributed.init_process_group("gloo")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state(), random.getstate(), torch.get_num_threads(), dict(os.environ)
    advice = recommend(dataset, model=model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, batch_size=4,
                       num_workers=0, step_time_s=0.01, budget="30s", quiet=True)
    same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    same = same and torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    same = same and torch.get_num_threads() == state[2] and dict(os.environ) == state[3] and not optimizer.state
    loader = DataLoader(dataset, shuffle=True, **advice.dataloader_kwargs)
    next(iter(loader))
    verdict = advice.report.recommendation.verdict.value
    told = {"verdict": verdict, "kwargs": advice.dataloader_kwargs, "lr": advice.lr, "same": same,
            "notes": advice.report.search_notes + advice.report.warnings,
            "cores": advice.report.environment.limits.usable_cores, "seconds": advice.report.seconds_spent}
    with open(os.path.join(os.environ["OUT"], os.environ.get("RANK", "0") + os.environ.get("TRY", "")), "w") as file:
        json.dump(told, file)
"""
)


HOMEBOUND = (
    PRELUDE
    + """
import copy, json, os, threading
from loadtune import recommend

class Locked(Waiting):
    def __init__(self):
        self.lock = threading.Lock()

optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
lock = threading.Lock()

def train_step(batch):
    images, targets = batch
    with lock:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()

if __name__ == "__main__":
    torch.set_num_threads(1)
    train_step(next(iter(DataLoader(Waiting(), batch_size=4))))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    state = torch.get_rng_state(), random.getstate(), torch.get_num_threads(), dict(os.environ), model.training
    val_loader = DataLoader(Waiting(), batch_size=8)
    advice = recommend(Locked(), model=model, train_step=train_step, batch_size=4, num_workers=0, device="cpu",
                       val_loader=val_loader, budget="50s", quiet=True, fresh=True)
    after = model.state_dict(), optimizer.state_dict()["state"]
    same = all(torch.equal(after[0][name], value) for name, value in before[0].items())
    same = same and all(torch.equal(after[1][number][name], value) for number, values in before[1].items()
                        for name, value in values.items() if value is not None)
    same = same and torch.equal(torch.get_rng_state(), state[0]) and random.getstate() == state[1]
    same = same and (torch.get_num_threads(), dict(os.environ), model.training) == state[2:]
    told = {"same": same, "warnings": advice.report.warnings, "kwargs": advice.dataloader_kwargs,
            "states": [trial.state for trial in advice.report.trials],
            "workers": sorted({trial.settings.num_workers for trial in advice.report.trials}),
            "duels": [duel.method for duel in advice.report.duels],
            "verdict": advice.report.recommendation.verdict,
            "val": advice.val.dataloader_kwargs, "val_warnings": advice.val.report.warnings,
            "val_purpose": advice.val.report.request.workload.purpose, "text": str(advice),
            "val_states": [trial.state for trial in advice.val.report.trials]}
    for kwargs in (advice.dataloader_kwargs, advice.val.dataloader_kwargs):
        next(iter(DataLoader(Waiting(), **kwargs)))
    with open(os.path.join(os.environ["OUT"], "told"), "w") as file:
        json.dump(told, file)
"""
)


def run(words: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    done = start(words, folder, **environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def start(words: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=ROOT,
        env={
            **os.environ,
            "OUT": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("form", ["agent", "group"])
def test_two_ranks_get_one_answer(tmp_path: Path, form: str) -> None:
    """One measures, with half of the cores, while the other waits; the script's own state stays as it was."""
    script = tmp_path / "train.py"
    script.write_text(RANKED)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    run(words, tmp_path, FORM=form)
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in "01")
    assert first == second
    assert first["same"]
    assert first["lr"] == 0.1
    assert first["cores"] == len(os.sched_getaffinity(0)) / 2
    assert any("2 ranks waited" in note for note in first["notes"])


def test_a_second_run_is_answered_from_what_was_kept(tmp_path: Path) -> None:
    """Unless the first was inconclusive: then nothing was kept, and the second measures as well, and may be kept."""
    script = tmp_path / "train.py"
    script.write_text(RANKED)
    for attempt in "ab":
        run([sys.executable, str(script)], tmp_path, FORM="alone", TRY=attempt)
    first, second = (json.loads((tmp_path / f"0{attempt}").read_text()) for attempt in "ab")
    kept = list((tmp_path / "cache" / "loadtune").glob("*.json"))
    is_told = any("nothing was measured now" in note for note in second["notes"])
    assert bool(kept) == ({first["verdict"], second["verdict"]} != {"INCONCLUSIVE"})
    assert is_told == (first["verdict"] != "INCONCLUSIVE")
    if is_told:
        assert first["kwargs"] == second["kwargs"]


def test_what_cannot_travel_is_measured_where_it_is(tmp_path: Path) -> None:
    """It says what and why, puts everything back, and measures the validation, which can travel, apart."""
    script = tmp_path / "train.py"
    script.write_text(HOMEBOUND)
    run([sys.executable, str(script)], tmp_path)
    told = json.loads((tmp_path / "told").read_text())
    assert told["same"]
    assert "cannot pickle '_thread.lock' object" in told["warnings"][0]
    assert "trials ran in this one" in told["warnings"][0]
    assert "complete" in told["states"]
    assert len(told["workers"]) >= 2
    assert set(told["duels"]) <= {"abba"}
    assert told["val_purpose"] == "evaluate"
    assert told["val"]["batch_size"] == 8
    assert "complete" in told["val_states"]
    assert not any("trials ran in this one" in each for each in told["val_warnings"])
    assert "\nvalidation\n" in told["text"]


def test_many_ranks_are_answered_from_what_was_kept(tmp_path: Path) -> None:
    """Sixteen ranks do not wait for a measurement: they are told how to fill the cache, and then answered from it."""
    script = tmp_path / "train.py"
    script.write_text(RANKED)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    many = {
        "WORLD_SIZE": "16", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", "FORM": "agent",
    }  # fmt: skip
    refused = start([sys.executable, str(script)], tmp_path, **many)
    assert refused.returncode != 0
    assert "16 ranks would wait" in refused.stderr
    told = re.search(r"LOCAL_WORLD_SIZE=2 (.*train\.py)", refused.stderr)
    assert told is not None, refused.stderr
    run(["bash", "-c", told[1]], tmp_path, FORM="alone", LOCAL_WORLD_SIZE="2", TRY="filled")
    filled = json.loads((tmp_path / "0filled").read_text())
    if filled["verdict"] != "INCONCLUSIVE":  # else there is nothing to be kept
        run([sys.executable, str(script)], tmp_path, **many, TRY="many", TORCHELASTIC_RUN_ID="second")
        answered = json.loads((tmp_path / "0many").read_text())
        assert answered["kwargs"] == filled["kwargs"]
        assert any("nothing was measured now" in note for note in answered["notes"])


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    """As it stands there, after a script's own classes."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if "import recommend" in block)
    script = tmp_path / "train.py"
    script.write_text(PRELUDE + example + "    print(type(next(iter(loader))))\n")
    assert "list" in run([sys.executable, str(script)], tmp_path).stdout


def test_the_notebook_runs_and_shows_the_report() -> None:
    """Cell by cell in a kernel, where classes live in the notebook itself."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "demo" / "recommend.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "demo")}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    pages = [output["data"]["text/html"] for output in shown if "text/html" in output["data"]]
    assert pages[0].startswith("<iframe srcdoc=")
    assert "num_workers" in pages[-1]
    assert any("batch_size" in output["data"].get("text/plain", "") for output in shown)
