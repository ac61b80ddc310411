"""CIFAR-10 and CIFAR-100 as torchvision stores them. Krizhevsky: Learning Multiple Layers of Features, 2009."""

from PIL import Image

from converters.without_dynamo import without_dynamo
from pretrain.config import DataConfig
from pretrain.data.images import Images
from runs.errors import UserError


def open_cifar(config: DataConfig, split: str) -> Images:
    """Read a whole split into memory; CIFAR's test set serves as `val`.

    Raises:
        UserError: the folder that torchvision unpacks is missing, or a file's checksum is wrong.
    """
    # Here, so that a mistyped setting of `pretrain.shard` does not wait for PyTorch.
    with without_dynamo():
        from torchvision.datasets import CIFAR10, CIFAR100
    kind = CIFAR10 if config.layout == "cifar10" else CIFAR100
    try:
        # torchvision compares every file's MD5 with the published one before it unpickles anything.
        data = kind(config.root, train=split == "train", download=False)
    except RuntimeError as error:
        raise UserError(
            f"data.root={config.root}: {kind.base_folder}/ is missing in it or damaged; "
            f"unpack {kind.filename} there, or use data=imagefolder for a tree of image files"
        ) from error
    names = [f"{config.name}/{split}/{i:05d}" for i in range(len(data))]
    return Images(config.name, split, names, data.targets, data.classes, lambda i: Image.fromarray(data.data[i]))
