"""`python -m pretrain.check_data data=imagefolder data.root=DIR`: list a data set, decode some of it."""

from dataclasses import dataclass

from omegaconf import MISSING

from pretrain.config import DataConfig
from runs.app import hydra_app
from runs.errors import BrokenImage
from runs.progress import Progress
from runs.settings import number


@dataclass
class CheckConfig:
    """Settings of `python -m pretrain.check_data`."""

    data: DataConfig = MISSING
    images: int = number(64, least=0)
    """Images of each split to decode, spread evenly; 0 decodes all."""


def check_data(config: CheckConfig) -> None:
    """Print a line a split; the first fault ends it with status 2."""
    # Here, so that `--help` and a mistyped key do not wait for OpenCV.
    from pretrain.data import open_training

    for images in filter(None, open_training(config.data)):
        count = min(config.images or len(images), len(images))
        broken = []
        with Progress(count, f"decoding {images.split}", "image") as bar:
            for number in range(count):
                try:
                    images.decode_rgb(number * len(images) // count)
                except BrokenImage as error:
                    if not config.data.skip_broken:
                        raise
                    broken.append(error.name)
                bar.update(1)
        found = f"; {len(broken)} broken, {broken[0]} the first" if broken else ""
        print(f"{images.format_summary()}; {count} decoded{found}")


main = hydra_app("pretrain", "config_check_data", CheckConfig, check_data)

if __name__ == "__main__":
    main()
