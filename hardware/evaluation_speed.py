"""Linear evaluation and kNN: images a second of frozen features, and of twelve classifiers."""

from collections.abc import Iterator

import torch
from torchvision import models

from hardware.measure_peak_rates import shortest_time
from hardware.section import IMAGENET, Figure, Options
from pretrain.config import LinearConfig
from pretrain.linear.evaluation import LinearClassifiers
from runs.distributed import set_precision


def measure(options: Options) -> Iterator[Figure | tuple[str, float]]:
    """Images a second of frozen features, and of twelve classifiers of 2048 x 1000."""
    size, batch = (32, 8) if options.small else (224, 256)
    device = torch.device(options.device)
    rates: dict[str, float] = {}
    for precision in ("fp32",) if device.type == "cpu" else ("fp32", "tf32", "bf16"):
        set_precision(precision, device)
        network = (models.resnet18() if options.small else models.resnet50()).to(
            device, memory_format=torch.channels_last
        )
        network.eval()
        images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            rates[precision] = batch / shortest_time(lambda: network(images), 1.0, options.device)  # noqa: B023
        yield Figure(f"features, {precision}", rates[precision], "images/s")
    channels, classes = (512, 10) if options.small else (2048, 1000)
    config = LinearConfig(lr=[0.1 * 2**n for n in range(12)], batch_size=batch * 2)
    classifiers = LinearClassifiers(config, channels, classes, device)
    features = torch.randn(batch * 2, channels, device=device)
    labels = torch.randint(0, classes, (batch * 2,), device=device)

    def step() -> None:
        classifiers.optimizer.zero_grad()
        loss = sum(torch.nn.functional.cross_entropy(layer(features), labels) for layer in classifiers.layers)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        classifiers.optimizer.step()

    heads = batch * 2 / shortest_time(step, 1.0, options.device)
    yield Figure("step of twelve linear classifiers (LARC)", heads, "images/s")
    if not options.small and "tf32" in rates:
        # 90 epochs of views, each through the network and the classifiers; one pass for kNN.
        yield "linear", 90 * IMAGENET * (1 / rates["tf32"] + 1 / heads)
        yield "knn", IMAGENET / rates["tf32"]
