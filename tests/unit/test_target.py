"""The user's own code: what is loaded, what is refused, and how a script that trains at import ends."""

import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler

from loadtune.engine.child import _describe
from loadtune.errors import TargetError
from loadtune.records.settings import WorkloadSpec
from loadtune.workload.target import describe_dataset, import_target, load_target, resolve_dataset

MODULE = "tests.targets.handed_over"
TARGETS = Path(__file__).parents[1] / "targets"
LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def _imports_leave_no_trace(monkeypatch):
    """sys.path and sys.modules are as they were, so that no test finds another's scripts."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if name.startswith(("script", "loadtune_target_", "unguarded", "beside")):
            del sys.modules[name]


def write_script(folder: Path, text: str, name: str = "script.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", ["make_dataset", "Squares", "ready_dataset"])
def test_function_class_and_instance_all_give_the_dataset(name):
    """A factory is called, a class instantiated, a data set taken as it is."""
    source = resolve_dataset(f"{MODULE}:{name}", WorkloadSpec())
    actual = (type(source.dataset).__name__, source.loader, source.is_iterable, source.sample_count)
    assert (*actual, source.fixed_axes) == ("Squares", None, False, 12, ())


def test_script_is_loaded_by_its_path_and_finds_its_neighbours(tmp_path):
    """The script's own folder is importable, as it is under `python script.py`."""
    write_script(tmp_path, "SAMPLES = [1, 2, 3]\n", "beside_it.py")
    reference = write_script(tmp_path, "import beside_it\ndef make():\n    return beside_it.SAMPLES\n")
    assert resolve_dataset(f"{reference}:make", WorkloadSpec()).sample_count == 3


def test_script_named_like_a_loaded_module_does_not_replace_it(tmp_path):
    """A data script called json.py must not become everyone's json."""
    import json

    reference = write_script(tmp_path, "samples = [1]\n", "json.py")
    assert load_target(f"{reference}:samples", LIMIT_S) == [1]
    assert sys.modules["json"] is json


def test_module_instance_is_taken_and_not_called(tmp_path):
    """nn.Module is callable; calling one without an image would fail."""
    reference = write_script(tmp_path, "from torch import nn\nmodel = nn.Identity()\n")
    assert isinstance(load_target(f"{reference}:model", LIMIT_S), nn.Identity)


def test_import_target_does_not_call():
    """A train step is a function to be kept, not a factory."""
    assert import_target(f"{MODULE}:train_step", LIMIT_S).__name__ == "train_step"


def test_iterable_dataset_has_no_length_and_fixes_the_order():
    """Its length is unknown, which is None and not 0."""
    source = resolve_dataset(f"{MODULE}:Stream", WorkloadSpec())
    assert (source.is_iterable, source.sample_count) == (True, None)
    assert source.fixed_axes == ("sample order: set by your iterable dataset",)


def test_plain_loader_fixes_nothing():
    """shuffle=True makes a RandomSampler that our own seeded order may replace."""
    source = resolve_dataset(f"{MODULE}:make_plain_loader", WorkloadSpec())
    assert isinstance(source.loader, DataLoader)
    assert (source.sample_count, source.fixed_axes) == (12, ())


@pytest.mark.parametrize(
    ("name", "count", "axes"),
    [
        ("make_batch_sampled_loader", 12, ["batch_size: fixed by your batch_sampler", "sample order"]),
        ("make_weighted_loader", 7, ["sample order: your sampler is kept (WeightedRandomSampler)"]),
        ("make_unbatched_loader", None, ["batch_size: your loader yields samples", "sample order"]),
    ],
)
def test_ready_loader_says_which_axes_it_fixes(name, count, axes):
    """Each axis that a loader's own samplers decide is named, and no other."""
    source = resolve_dataset(f"{MODULE}:{name}", WorkloadSpec())
    assert source.sample_count == count
    assert len(source.fixed_axes) == len(axes)
    assert all(said.startswith(axis) for said, axis in zip(source.fixed_axes, axes, strict=True))


class BatchesOfOneRank:
    """A batch_sampler of the user's own, around a sampler that deals out to ranks."""

    def __init__(self, sampler) -> None:
        self.sampler, self.drop_last = sampler, True

    def __iter__(self):
        yield list(self.sampler)

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("wrap", ["sampler", "batch_sampler", "own batch_sampler"])
def test_a_share_of_one_rank_is_told_from_an_epoch(wrap):
    """Of 12 samples each of four ranks gets 3, of which batches of 2 drop one."""
    dealt = DistributedSampler(range(12), num_replicas=4, rank=1)
    options = {
        "sampler": {"sampler": dealt, "batch_size": 2, "drop_last": True},
        "batch_sampler": {"batch_sampler": BatchSampler(dealt, 2, drop_last=True)},
        "own batch_sampler": {"batch_sampler": BatchesOfOneRank(dealt)},
    }[wrap]
    source = describe_dataset(DataLoader(torch.arange(12), **options), "you handed over")
    assert (source.sample_count, source.is_rank_share, source.drop_last) == (3, True, True)
    told = _describe(source, 2, None, None)
    assert (told.sample_count, told.is_rank_share, told.drop_last) == (3, True, True)


@pytest.mark.parametrize("name", ["make_plain_loader", "make_weighted_loader", "make_unbatched_loader", "make_dataset"])
def test_what_knows_of_no_ranks_is_the_whole_epoch(name):
    source = resolve_dataset(f"{MODULE}:{name}", WorkloadSpec())
    assert (source.is_rank_share, source.drop_last) == (False, False)


def test_a_batch_sampler_that_samples_groups_is_no_count_of_samples():
    """Only one that is torch's own, or knows of ranks, is looked into."""
    groups = BatchesOfOneRank(range(3))
    source = describe_dataset(DataLoader(torch.arange(12), batch_sampler=groups), "you handed over")
    assert (source.sample_count, source.is_rank_share) == (12, False)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (MODULE, "names no attribute"),
        (f"{MODULE}:", "names no attribute"),
        (f"{MODULE}:make_datset", "did you mean tests.targets.handed_over:make_dataset"),
        ("no_such_module:x", "give the path to the .py file"),
        ("no/such/script.py:x", "no such file: no/such/script.py"),
        (f"{MODULE}:make_dict", "gives a dict"),
        (f"{MODULE}:OutModel", "gives a OutModel"),
        (f"{MODULE}:Unsized", "without a length"),
        (f"{MODULE}:make_trouble", "ValueError: the annotations ("),
        (f"{MODULE}:make_nothing_without_a_folder", "missing 1 required positional argument: 'folder'"),
    ],
)
def test_each_mistake_is_named(reference, words):
    """Every message says what was found and every hint what to do."""
    with pytest.raises(TargetError) as caught:
        resolve_dataset(reference, WorkloadSpec())
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os\nraise RuntimeError('no GPU')\n", "RuntimeError: no GPU"),
        ("from torch import nn, zeros\nnn.functional.interpolate(zeros(1), 3)\n", "script.py:2)"),
        ("def make(:\n", "SyntaxError: invalid syntax (script.py, line 1)"),
        ("import surely_missing\n", "No module named 'surely_missing'"),
        ("import sys\nsys.exit(2)\n", "loadtune.recommend()"),
    ],
)
def test_failing_import_shows_the_users_own_line(tmp_path, text, words):
    """The user's last line is told, also where torch raised or the script ended the process."""
    reference = write_script(tmp_path, text)
    with pytest.raises(TargetError) as caught:
        load_target(f"{reference}:make", LIMIT_S)
    assert words in str(caught.value)
    assert "script" not in sys.modules


def test_script_without_a_guard_is_stopped_at_the_limit():
    """The error names the guard, the file, the line that trains, and the other way in."""
    with pytest.raises(TargetError) as caught:
        load_target(f"{TARGETS / 'unguarded.py'}:dataset", 0.3)
    message = str(caught.value)
    assert 'if __name__ == "__main__"' in message
    assert "unguarded.py:" in message
    assert "loadtune.recommend()" in message
    assert "unguarded" not in sys.modules


def test_alarm_and_its_handler_are_as_before(tmp_path):
    """A user's own timer keeps running, and its handler is the one that will be called."""
    fired: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, _frame: fired.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        load_target(f"{write_script(tmp_path, 'samples = [1]')}:samples", 0.2)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
        signal.raise_signal(signal.SIGALRM)
        assert fired == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_other_threads_import_without_a_limit(tmp_path):
    """Signals reach the main thread only; elsewhere the import works all the same."""
    reference = write_script(tmp_path, "samples = [1]\n")
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(load_target(f"{reference}:samples", 0.1)))
    thread.start()
    thread.join()
    assert found == [[1]]


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("nan")])
def test_limit_must_be_positive(limit_s):
    """0 would switch the timer off, and with it the promise."""
    with pytest.raises(ValueError, match="must be positive"):
        load_target(f"{MODULE}:make_dataset", limit_s)
