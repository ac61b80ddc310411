"""solo-learn's own SimSiam and trainer with the collapse monitor as a callback; then with a loss without stop-gradient.

solo-learn is no package: `PYTHONPATH=CLONE python examples/monitor_solo_learn.py`.
"""

import solo.methods.simsiam
import torch
from lightning.pytorch import Trainer, seed_everything
from omegaconf import OmegaConf
from solo.data.pretrain_dataloader import dataset_with_index, prepare_dataloader
from solo.methods import METHODS
from torch import Tensor
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

from pretrain.lightning_callback import collapse_callback

CONFIG = OmegaConf.create(
    {
        "method": "simsiam",
        "method_kwargs": {"proj_hidden_dim": 128, "proj_output_dim": 64, "pred_hidden_dim": 16},
        "backbone": {"name": "resnet18"},
        "data": {"dataset": "custom", "num_classes": 10, "num_large_crops": 2, "num_small_crops": 0},
        "optimizer": {
            "name": "sgd", "batch_size": 32, "lr": 0.5, "classifier_lr": 0.1, "weight_decay": 0.0,
            "kwargs": {"momentum": 0.9},
        },
        "scheduler": {"name": "none"},
        "max_epochs": 40,
    }
)  # fmt: skip


def views(image: object) -> list[Tensor]:
    """Two crops of one image."""
    x = ToTensor()(image)
    return [x + 0.1 * torch.randn_like(x) for _ in range(2)]


def without_stop_gradient(p: Tensor, z: Tensor) -> Tensor:
    """The loss of solo-learn, without its `detach`."""
    return -torch.nn.functional.cosine_similarity(p, z, dim=-1).mean()


data = dataset_with_index(FakeData)(64, (3, 16, 16), transform=views)
for stop_gradient in (True, False):
    seed_everything(0)
    if not stop_gradient:
        solo.methods.simsiam.simsiam_loss_func = without_stop_gradient
    model = METHODS["simsiam"](METHODS["simsiam"].add_and_assert_specific_cfg(CONFIG.copy()))
    callback = collapse_callback("projector", "predictor", every=2, stop=True)
    trainer = Trainer(
        max_epochs=CONFIG.max_epochs, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, prepare_dataloader(data, batch_size=32, num_workers=0))
    health = callback.monitor.health
    print(f"stop_gradient={stop_gradient}: {callback.monitor.verdict}, spread {health.spread:.2f}")
