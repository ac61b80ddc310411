"""Run the official MoCo code on the small case and write its figures beside this file.

    git clone https://github.com/facebookresearch/moco CLONE && git -C CLONE checkout 7397dfe
    python tests/pretrain/parity/record_moco.py CLONE

Nothing of that repository is stored here but the numbers that it computes.
"""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torchvision.models import resnet18

HERE = Path(__file__).parent
sys.path[:0] = [sys.argv[1], str(HERE)]
import case  # noqa: E402
import moco.builder  # noqa: E402

# The code is for GPUs under DistributedDataParallel: here a single process, and "to the GPU" means nothing.
torch.Tensor.cuda = lambda self, *_, **__: self
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), world_size=1, rank=0)
torch.manual_seed(case.SEED)
model = moco.builder.MoCo(resnet18, dim=case.DIM, K=case.QUEUE, m=case.MOCO_M, T=case.MOCO_T, mlp=True)
initial = case.sums(model)
queue = [model.queue.sum().item(), model.queue.abs().sum().item()]
model = model.double()
criterion = torch.nn.CrossEntropyLoss()
# main_moco.py hands all parameters to the optimizer; those without a gradient stay.
optimizer = torch.optim.SGD(model.parameters(), case.LR, momentum=case.MOMENTUM, weight_decay=case.DECAY)
losses, gradients, queues = [], {}, []
for step in range(case.STEPS):
    logits, labels = model(*case.images(step))
    loss = criterion(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    if step == 0:
        gradients = case.sums(model, gradients=True)
    optimizer.step()
    losses.append(loss.item())
    queues.append([int(model.queue_ptr), *(model.queue * torch.linspace(-1, 1, case.QUEUE)).sum(1)[:4].tolist()])
torch.distributed.destroy_process_group()

commit = subprocess.run(["git", "-C", sys.argv[1], "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
figures = {
    "made_by": "facebookresearch/moco@" + commit.stdout.strip(),
    "packages": {name: version(name).split("+")[0] for name in ("torch", "torchvision")},
    "initial": initial, "initial_queue": queue, "losses": losses, "gradients": gradients, "queues": queues,
    "final": case.sums(model), "statistics": case.statistics(model), "keys": list(model.state_dict()),
}  # fmt: skip
(HERE / "moco.json").write_text(json.dumps(figures) + "\n")
