"""Do the schedules hold under the real Lightning and Transformers? Skipped where they are not installed.

What they ask of a scheduler is also tested without them, by stand-ins (`test_schedulers`).
"""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from loadtune import anneal
from loadtune.schedule.curve import epochs
from loadtune.schedule.kinds import Polynomial

SAMPLES, BATCH, EPOCHS, RATE = 70, 16, 4, 0.1
"""Five batches an epoch, the last of 6."""
POLYNOMIAL = Polynomial(total=EPOCHS, unit=epochs(SAMPLES))
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


def rate_after(samples):
    """DeepLab's polynomial, written down a second time."""
    return RATE * (1 - min(1.0, samples / (EPOCHS * SAMPLES))) ** 0.9


@pytest.fixture
def data():
    torch.manual_seed(0)
    return TensorDataset(torch.randn(SAMPLES, 4), torch.randn(SAMPLES, 1))


def make_module(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.rates = torch.nn.Linear(4, 1), []

        def training_step(self, batch, number):
            self.rates.append(self.optimizers().param_groups[0]["lr"])
            return ((self.net(batch[0]) - batch[1]) ** 2).mean()

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=RATE)
            scheduler = anneal(optimizer, POLYNOMIAL, batch_size=BATCH, samples_per_epoch=SAMPLES)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Module()


def fit(lightning, module, data, folder, checkpoint=None, **limits):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet, **limits
    )
    trainer.fit(module, DataLoader(data, BATCH), ckpt_path=checkpoint)
    return trainer


def test_lightning_steps_it_and_takes_it_up_again(data, tmp_path):
    """By samples, the short batch counted as short; and from a checkpoint in mid-epoch it goes on where it was."""
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    wanted = [rate_after(epoch * SAMPLES + BATCH * step) for epoch in range(EPOCHS) for step in range(5)]
    whole = make_module(lightning)
    fit(lightning, whole, data, tmp_path, max_epochs=EPOCHS)
    assert whole.rates == pytest.approx(wanted, rel=1e-12)
    first, second = make_module(lightning), make_module(lightning)
    fit(lightning, first, data, tmp_path, max_steps=7).save_checkpoint(tmp_path / "middle.ckpt")
    fit(lightning, second, data, tmp_path, checkpoint=tmp_path / "middle.ckpt", max_epochs=EPOCHS)
    assert first.rates == pytest.approx(wanted[:7], rel=1e-12)
    assert second.rates[0] == pytest.approx(wanted[7], rel=1e-12)


def test_transformers_steps_it(data, tmp_path):
    """Its Trainer tells no samples, so each step counts as a whole batch: said in `anneal`."""
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    pytest.importorskip("accelerate", reason="Accelerate is not installed")
    rates = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(4, 1)

        def forward(self, x, y):
            return {"loss": ((self.net(x) - y) ** 2).mean()}

    class Trainer(transformers.Trainer):
        def training_step(self, *arguments, **options):
            rates.append(self.optimizer.param_groups[0]["lr"])
            return super().training_step(*arguments, **options)

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    scheduler = anneal(optimizer, POLYNOMIAL, batch_size=BATCH)
    asked = {"per_device_train_batch_size": BATCH, "num_train_epochs": EPOCHS, "use_cpu": True, "disable_tqdm": True}
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), report_to=[], save_strategy="no", logging_strategy="no", **asked
    )
    rows = [{"x": x, "y": y} for x, y in data]
    Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, scheduler)).train()
    assert rates == pytest.approx([rate_after(BATCH * step) for step in range(5 * EPOCHS)], rel=1e-12, abs=1e-15)
