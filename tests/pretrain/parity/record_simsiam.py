"""Run the official SimSiam code on the small case and write its figures beside this file.

    git clone https://github.com/facebookresearch/simsiam CLONE && git -C CLONE checkout a7bc177
    python tests/pretrain/parity/record_simsiam.py CLONE

Nothing of that repository is stored here but the numbers that it computes.
"""

import hashlib
import json
import random
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from torchvision import transforms
from torchvision.models import resnet18, resnet50

HERE = Path(__file__).parent
sys.path[:0] = [sys.argv[1], str(HERE)]
import case  # noqa: E402
import main_simsiam  # noqa: E402  the official training script
import simsiam.builder  # noqa: E402
import simsiam.loader  # noqa: E402

torch.manual_seed(case.SEED)
model = simsiam.builder.SimSiam(resnet18, case.DIM, case.HIDDEN)
initial = case.sums(model)
model = model.double()
criterion = torch.nn.CosineSimilarity(dim=1)
groups = [
    {"params": model.encoder.parameters(), "fix_lr": False},
    {"params": model.predictor.parameters(), "fix_lr": True},
]
optimizer = torch.optim.SGD(groups, case.LR, momentum=case.MOMENTUM, weight_decay=case.DECAY)
losses, first = [], {}
for step in range(case.STEPS):
    # A step is an epoch here, so that the schedule takes part.
    main_simsiam.adjust_learning_rate(optimizer, case.LR, step, SimpleNamespace(epochs=case.STEPS))
    p1, p2, z1, z2 = model(*case.images(step))
    loss = -(criterion(p1, z2).mean() + criterion(p2, z1).mean()) * 0.5
    optimizer.zero_grad()
    loss.backward()
    losses.append(loss.item())
    if step == 0:
        first = {"p1": p1[0, :6].tolist(), "z1": z1[0, :6].tolist(), "gradients": case.sums(model, gradients=True)}
    optimizer.step()

schedules = {}
for epochs, lr in case.SCHEDULES.items():
    rates = []
    for epoch in range(int(epochs)):
        main_simsiam.adjust_learning_rate(optimizer, lr, epoch, SimpleNamespace(epochs=int(epochs)))
        rates.append([group["lr"] for group in optimizer.param_groups])
    schedules[epochs] = rates

# The list of main_simsiam.py; it stands inside main_worker() there and cannot be called.
augmentation = simsiam.loader.TwoCropsTransform(
    transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([simsiam.loader.GaussianBlur([0.1, 2.0])], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
)
views = []
for seed in range(case.AUGMENTATIONS):
    random.seed(seed)
    torch.manual_seed(seed)
    views.append([hashlib.sha256(view.numpy().tobytes()).hexdigest() for view in augmentation(case.picture())])

# The released 100-epoch checkpoint: main_simsiam.py's model at its defaults, inside DistributedDataParallel.
released = simsiam.builder.SimSiam(resnet50)
shapes = {f"module.{name}": list(value.shape) for name, value in released.state_dict().items()}

commit = subprocess.run(["git", "-C", sys.argv[1], "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
facts = {
    "made_by": "facebookresearch/simsiam@" + commit.stdout.strip(),
    "packages": {name: version(name).split("+")[0] for name in ("torch", "torchvision", "pillow")},
}
figures = {
    **facts, "initial": initial, "first": first, "losses": losses,
    "final": case.sums(model), "statistics": case.statistics(model),
    "keys": list(model.state_dict()),
}  # fmt: skip
(HERE / "simsiam.json").write_text(json.dumps(figures) + "\n")
(HERE / "simsiam_schedule.json").write_text(json.dumps({**facts, "rates": schedules}) + "\n")
(HERE / "simsiam_views.json").write_text(json.dumps({**facts, "sha256": views}, indent=0) + "\n")
(HERE / "simsiam_release.json").write_text(json.dumps({**facts, "shapes": shapes}) + "\n")
