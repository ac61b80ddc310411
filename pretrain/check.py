"""`python -m pretrain.check data=imagefolder data.root=DIR`: list a data set as the runs do and decode some of it."""

from dataclasses import dataclass

from omegaconf import MISSING

from pretrain.config import DataConfig
from pretrain.data import BrokenImage, open_images, open_val
from runs.app import hydra_app
from runs.errors import UserError
from runs.progress import Progress


@dataclass
class CheckConfig:
    """Settings of `python -m pretrain.check`."""

    data: DataConfig = MISSING
    images: int = 64
    """Images of each split to decode, spread evenly; 0 decodes all."""

    def __post_init__(self) -> None:
        if self.images < 0:
            raise UserError(f"images={self.images}: must not be negative")


@hydra_app("pretrain", "config_check", CheckConfig)
def main(config: CheckConfig) -> None:
    """Print a line a split; the first fault ends it with status 2."""
    splits = [open_images(config.data, "train")]
    if splits[0].classes:
        splits.append(open_val(config.data, splits[0]))
    for images in splits:
        count = min(config.images or len(images), len(images))
        broken = []
        with Progress(count, f"decoding {images.split}", "image") as bar:
            for number in range(count):
                try:
                    images.open(number * len(images) // count)
                except BrokenImage as error:
                    if not config.data.skip_broken:
                        raise
                    broken.append(error.name)
                bar.update(1)
        found = f"; {len(broken)} broken, {broken[0]} the first" if broken else ""
        print(f"{images.describe()}; {count} decoded{found}")


if __name__ == "__main__":
    main()
