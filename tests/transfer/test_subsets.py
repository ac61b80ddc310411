"""Subsets are nested, balanced and the same everywhere; what is held out does not depend on the rest."""

from pathlib import Path

import numpy as np
import pytest

from runs.errors import UserError
from tests.transfer.conftest import CLASSES
from transfer.read_splits import read_joined_splits
from transfer.subsets import balanced_subset, hold_out


def image(number: int, *categories: int) -> dict[str, object]:
    annotations = [{"category_id": c, "bbox": [0, 0, 1, 1]} for c in categories]
    return {"file_name": f"/data/{number:06d}.jpg", "annotations": annotations}


def skewed() -> list[dict[str, object]]:
    """Class 0 in nine images of ten, class 4 in ten images only."""
    rng = np.random.default_rng(0)
    images = [image(n, 0, *rng.choice([1, 2, 3], rng.integers(0, 2))) for n in range(400)]
    return images + [image(400 + n, 4) for n in range(10)] + [image(500)]


def names(images: list[dict[str, object]]) -> list[object]:
    return [i["file_name"] for i in images]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_smaller_subset_is_the_beginning_of_a_larger(seed: int) -> None:
    images = skewed()
    whole = names(balanced_subset(images, 5, 200, seed))
    assert len(set(whole)) == 200
    for count in (1, 7, 50, 199):
        assert names(balanced_subset(images, 5, count, seed)) == whole[:count]
    assert names(balanced_subset(images, 5, 200, seed + 10)) != whole


def test_classes_are_as_even_as_the_images_allow() -> None:
    chosen = balanced_subset(skewed(), 5, 40, 0)
    shown = [{a["category_id"] for a in i["annotations"]} for i in chosen]  # type: ignore[attr-defined]
    counts = [sum(c in s for s in shown) for c in range(5)]
    # Class 0 comes along with 1, 2 and 3; the rare class 4 must not be left behind.
    assert counts[4] == 10 and min(counts) >= 8


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="410 training images show an object"):
        balanced_subset(skewed(), 5, 411, 0)


@pytest.mark.shared
def test_a_subset_of_the_real_split(shared: Path) -> None:
    from transfer.settings import VOC_CLASSES

    images = read_joined_splits(str(shared / "data"), ["voc_2007_train"], VOC_CLASSES).images
    chosen = balanced_subset(images, 20, 100, 0)
    shown = [{a["category_id"] for a in i["annotations"]} for i in chosen]
    assert min(sum(c in s for s in shown) for c in range(20)) >= 5


def test_held_out_images_stay_held_out() -> None:
    images = skewed()
    train, held = hold_out(images, 0.2, 0)
    assert len(train) + len(held) == len(images) and 60 < len(held) < 105
    some_train, some_held = hold_out(images[::3], 0.2, 0)
    assert set(names(some_held)) <= set(names(held)) and set(names(some_train)) <= set(names(train))
    assert names(hold_out(images, 0.2, 1)[1]) != names(held)
    with pytest.raises(UserError, match=r"data\.held_out"):
        hold_out(images[:1], 0.2, 0)


def test_subsets_of_generated_data_can_be_trained_on(generated: Path) -> None:
    split = read_joined_splits(str(generated), ["coco_2017_train"], CLASSES)
    assert len(balanced_subset(split.images, 8, 5, 0)) == 5
