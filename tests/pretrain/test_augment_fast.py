"""The fast pipeline gives the reference's views: same draws, same pixels up to a stated rounding."""

import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torchvision.transforms.functional as F
import yaml
from PIL import Image, ImageFilter
from scipy.stats import ks_2samp
from torch import Tensor

import pretrain.augment.views
from pretrain import augment
from pretrain.augment import batched_colour
from pretrain.augment import opencv_operations as opencv
from pretrain.augment.view_parameters import ParameterSampler
from pretrain.augment.views import FastViews, Views, apply_colour_, build_views
from pretrain.config import AugmentConfig
from pretrain.data import Images
from pretrain.data.decoding import LazyImage
from pretrain.loader import StepSampler, iterate_batches
from runs.errors import BrokenImage, UserError
from runs.settings import check_values
from tests.pretrain.processes import lines, run, small

CPU = torch.device("cpu")
NAMES = ("simsiam", "moco", "simclr", "byol", "swav", "supervised", "cifar")
Array = numpy.ndarray[Any, Any]


def picture(seed: int, width: int = 120, height: int = 90) -> Image.Image:
    """Flat surfaces, edges, texture, grays and saturated colours: what photographs have, without a photograph."""
    chance = numpy.random.default_rng(seed)
    small = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=numpy.uint8))
    x = numpy.array(small.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    for _ in range(6):
        top, left = chance.integers(0, height - 10), chance.integers(0, width - 10)
        bottom, right = top + chance.integers(5, height), left + chance.integers(5, width)
        x[top:bottom, left:right] = 0.5 * x[top:bottom, left:right] + 0.5 * chance.integers(0, 256, 3)
    x[:8] = chance.integers(0, 256)
    x[-8:, : width // 2] = 255 * chance.integers(0, 2, 3)
    return Image.fromarray((x + chance.normal(0, 12, (height, width, 1))).clip(0, 255).astype(numpy.uint8))


def jpeg(image: Image.Image, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **settings)
    return buffer.getvalue()


def images_of(files: list[bytes]) -> Images:
    return Images("test", "train", [f"{i}.jpg" for i in range(len(files))], [0] * len(files), ["a"], files.__getitem__)


@pytest.fixture(scope="module")
def files() -> Images:
    return images_of([jpeg(picture(i)) for i in range(24)])


def recipe(name: str, **changes: Any) -> AugmentConfig:
    settings = yaml.safe_load((Path(augment.__file__).parent / f"{name}.yaml").read_text())
    del settings["defaults"]
    return AugmentConfig(**settings | changes)


def levels(views: list[Tensor], config: AugmentConfig) -> Tensor:
    """Views as 8-bit levels, one after the other."""
    mean, std = torch.tensor(config.mean)[:, None, None], torch.tensor(config.std)[:, None, None]
    return torch.cat([(view * std + mean) * 255 for view in views])


def batch(views: Views, keys: list[tuple[int, int]]) -> list[Tensor]:
    samples = [sample[0] for sample in views.__getitems__(keys)]
    return views.to_float_views([torch.stack(tensors) for tensors in zip(*samples, strict=True)], CPU)


def difference(a: Array, b: Array) -> tuple[float, float]:
    gap = numpy.abs(a.astype(float) - b.astype(float))
    return float(gap.max()), float(gap.mean())


# Operation -> parameters, by torchvision, here on an array, here on a tensor, largest and mean difference in levels.
Case = tuple[tuple[float, ...], Callable[..., Any], Callable[..., Any], Callable[..., Any], float, float]
FACTORS = (0.0, 0.2, 0.6, 0.93, 1.0, 1.37, 1.8)
CASES: dict[str, Case] = {
    "brightness": (FACTORS, F.adjust_brightness, opencv.adjust_brightness_, batched_colour.adjust_brightness, 0, 0),
    "contrast": (FACTORS, F.adjust_contrast, opencv.adjust_contrast_, batched_colour.adjust_contrast, 1, 0.05),
    "saturation": (FACTORS, F.adjust_saturation, opencv.adjust_saturation_, batched_colour.adjust_saturation, 1, 0.01),
    "hue": (
        (-0.2, -0.1, -0.003, 0.0, 0.05, 0.1, 0.2), F.adjust_hue, opencv.adjust_hue_,
        lambda x, f: batched_colour.adjust_hue(x, torch.full_like(f, opencv.hue_steps(float(f[0])))), 6, 0.02,
    ),
    "solarize": (
        (0.0,), lambda i, _: F.solarize(i, 128), lambda x, _: opencv.solarize_(x),
        lambda x, _: batched_colour.solarize(x),
        0, 0,
    ),
    "gray": (
        (0.0,), lambda i, _: F.to_grayscale(i, 3), lambda x, _: numpy.stack([opencv.luminance(x)] * 3, axis=2),
        lambda x, _: batched_colour.luminance(x).expand_as(x), 1, 0.002,
    ),
    "box blur": (
        (0.1, 0.35, 0.8, 1.23, 1.7, 2.0), lambda i, s: i.filter(ImageFilter.GaussianBlur(s)),
        opencv.pillow_gaussian_blur_,
        lambda x, s: batched_colour.blur(x, batched_colour.blur_matrices(s.flatten(), x.shape[-1], 0, CPU)), 3, 0.9,
    ),
    "kernel blur": (
        (0.1, 0.35, 0.8, 1.23, 2.0), lambda i, s: F.gaussian_blur(i, 23, [s, s]),
        lambda x, s: opencv.torchvision_gaussian_blur_(x, s, 23),
        lambda x, s: batched_colour.blur(x, batched_colour.blur_matrices(s.flatten(), x.shape[-1], 23, CPU)), 1, 0.02,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operation_equals_torchvisions(name: str) -> None:
    parameters, official, on_array, on_tensor, most, mean = CASES[name]
    square = [picture(seed).resize((64, 64)) for seed in range(6)]
    for parameter in parameters:
        for image in square:
            expected = numpy.array(official(image, parameter))
            x = numpy.array(image)
            tensor = torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float()
            found = on_tensor(tensor, torch.full((1, 1, 1, 1), parameter))[0].permute(1, 2, 0).numpy()
            for result in (on_array(x, parameter), found):
                largest, average = difference(result, expected)
                assert largest <= most and average <= mean, (name, parameter, largest, average)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_equals_pillows(interpolation: str) -> None:
    for box in ((0, 0, 120, 90), (10, 5, 101, 77), (30, 30, 64, 50), (7, 9, 39, 41)):
        crop = picture(0).crop(box)
        expected = numpy.array(crop.resize((32, 32), getattr(Image.Resampling, interpolation.upper())))
        largest, mean = difference(opencv.resize_antialiased(numpy.array(crop), 32, interpolation), expected)
        assert largest <= 1 and mean <= 0.06


@pytest.mark.parametrize("on_device", [False, True], ids=["by OpenCV", "in batches"])
@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_the_references_views(files: Images, name: str, on_device: bool) -> None:
    config = recipe(name, size=48, eval_resize=0)
    keys = [(1, i) for i in range(len(files))]
    reference, fast = (
        Views(files, augment.build_view_transforms(config.for_views(2)), 7, False),
        FastViews(files, config.for_views(2), 7, False, on_device),
    )
    expected, found = levels(batch(reference, keys), config), levels(batch(fast, keys), config)
    gap = (expected - found).abs()
    assert expected.shape == found.shape == (48, 3, 48, 48)
    # A hue step at one pixel is at most 6 levels, and what follows (contrast, saturation) may stretch it.
    assert gap.max() < 25
    assert gap.mean() < 0.25
    assert gap.flatten(1).mean(dim=1).max() < 1.2, "the view that differs most"
    assert (gap > 3.5).float().mean() < 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_it_draws_from_both_generators_exactly_what_the_reference_draws(files: Images, name: str) -> None:
    config = recipe(name, size=16)
    reference, fast = (
        Views(files, augment.build_view_transforms(config.for_views(2)), 3, False),
        FastViews(files, config.for_views(2), 3, False),
    )
    for index in range(12):
        left = []
        for views in (reference, fast):
            views.sample(index, (0, index))
            left.append((random.getstate(), torch.get_rng_state().tolist()))
        assert left[0] == left[1], index


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What the reference's operations are called with."""
    found: dict[str, list[float]] = {}

    def spy(place: Any, name: str, note: Callable[..., dict[str, float]]) -> None:
        original = getattr(place, name)

        def called(*arguments: Any, **named: Any) -> Any:
            for key, value in note(*arguments, **named).items():
                found.setdefault(key, []).append(value)
            return original(*arguments, **named)

        monkeypatch.setattr(place, name, called)

    for name in ("brightness", "contrast", "saturation", "hue"):
        spy(F, f"adjust_{name}", lambda _, factor, name=name: {name: factor})
    spy(F, "resized_crop", lambda _, top, left, height, width, *rest, **__: crop_numbers((top, left, height, width)))
    spy(ImageFilter, "GaussianBlur", lambda radius: {"sigma": radius})
    return found


def crop_numbers(box: tuple[int, int, int, int]) -> dict[str, float]:
    top, left, height, width = box
    return {"area": height * width, "aspect": width / height, "top": top, "left": left}


def test_drawn_parameters_follow_the_references_distributions(spied: dict[str, list[float]]) -> None:
    """Other seeds than the reference's: nothing agrees because it is the same draw."""
    config, image = recipe("simsiam", size=8), picture(0, 60, 40)
    (view,) = augment.build_view_transforms(config.for_views(1))
    for seed in range(600):
        random.seed(seed)
        torch.manual_seed(seed)
        view(image)
    sampler, drawn = ParameterSampler(config), dict[str, list[float]]()
    draws = []
    for seed in range(10_000, 10_600):
        random.seed(seed)
        torch.manual_seed(seed)
        draws.append(sampler(image))
        numbers = crop_numbers(draws[-1].box) | dict(draws[-1].jitter)
        numbers |= {} if draws[-1].sigma is None else {"sigma": draws[-1].sigma}
        for name, value in numbers.items():
            drawn.setdefault(name, []).append(value)
    assert drawn.keys() == spied.keys() and len(drawn) == 9
    for name, values in drawn.items():
        # Probabilities of 1 in 10,000: the seeds are fixed, so this cannot fail by chance.
        assert ks_2samp(values, spied[name]).pvalue > 1e-4, name
        assert abs(len(values) - len(spied[name])) < 4 * 600**0.5
        assert ks_2samp([1.3 * value for value in values], spied[name]).pvalue < 1e-4 or name in ("top", "left", "hue")
    for share, p in ((numpy.mean([d.gray for d in draws]), 0.2), (numpy.mean([d.flip for d in draws]), 0.5)):
        assert abs(share - p) < 4 * (p * (1 - p) / 600) ** 0.5


def statistics(views: Tensor) -> dict[str, list[float]]:
    """Numbers of (n, 3, H, W) views in whole levels that each operation moves."""
    views = views.round()
    gray = views.mean(dim=1)
    return {
        "mean": gray.mean(dim=(1, 2)).tolist(),
        "contrast": gray.std(dim=(1, 2)).tolist(),
        "sharpness": (gray[:, :, 1:] - gray[:, :, :-1]).abs().mean(dim=(1, 2)).log1p().tolist(),
        "colour": (views.amax(dim=1) - views.amin(dim=1)).mean(dim=(1, 2)).tolist(),
        "redness": (views[:, 0] - views[:, 2]).mean(dim=(1, 2)).tolist(),
        "slope": (gray[:, :, 24:].mean(dim=(1, 2)) - gray[:, :, :24].mean(dim=(1, 2))).tolist(),
    }


def test_statistics_of_pixels_are_the_references_on_other_seeds(files: Images) -> None:
    config = recipe("simsiam", size=48)
    reference, fast = (
        Views(files, augment.build_view_transforms(config.for_views(2)), 0, False),
        FastViews(files, config.for_views(2), 1, False),
    )
    keys = [(epoch, i) for epoch in range(10) for i in range(len(files))]
    found, expected = levels(batch(fast, keys), config), levels(batch(reference, keys), config)
    for name, values in statistics(found).items():
        assert ks_2samp(values, statistics(expected)[name]).pvalue > 1e-3, name
    # It can fail: without a blur the sharpness differs, without jitter the colour.
    for name, change in (("sharpness", {"blur_p": 0.0}), ("colour", {"gray_p": 0.0})):
        other = statistics(
            levels(batch(FastViews(files, replace(config, **change).for_views(2), 1, False), keys), config)
        )
        assert ks_2samp(other[name], statistics(expected)[name]).pvalue < 1e-3, name


def without_antialias(image: Array, size: int, _: str) -> Array:
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(x, (size, size), mode="bilinear")[0].permute(1, 2, 0).contiguous().numpy()


WRONG: dict[str, tuple[str, Any]] = {
    "no antialias": ("resize_antialiased", without_antialias),
    "jitter in a fixed order": (
        "apply_colour_", lambda x, d, c: apply_colour_(x, replace(d, jitter=tuple(sorted(d.jitter))), c),
    ),
    "channels exchanged": ("channels_first", lambda x: opencv.channels_first(x).flip(0)),
    "blur twice as wide": (
        "apply_colour_", lambda x, d, c: apply_colour_(x, replace(d, sigma=d.sigma and 2 * d.sigma), c),
    ),
    "flip first, then crop": ("apply_colour_", lambda x, d, c: apply_colour_(x, replace(d, flip=not d.flip), c)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variant_is_found(files: Images, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, wrong = WRONG[name]
    monkeypatch.setattr(pretrain.augment.views, place, wrong)
    with pytest.raises(AssertionError):
        test_one_seed_gives_the_references_views(files, "simsiam", False)


@pytest.mark.parametrize("on_device", [False, True])
def test_batches_do_not_depend_on_workers_or_company(files: Images, on_device: bool) -> None:
    config = recipe("simsiam", size=32)
    views = FastViews(files, config.for_views(2), 5, False, on_device)
    sampler = StepSampler(len(files), 8, 5, steps=range(len(files) // 8))
    alone, apart = list(iterate_batches(views, sampler, 0)), list(iterate_batches(views, sampler, 2))
    for one, two in zip(alone, apart, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    keys = next(iter(sampler))
    together, single = batch(views, keys), [batch(views, [key]) for key in keys]
    for number in range(2):
        gap = (together[number] - torch.cat([views[number] for views in single])).abs() * min(config.std) * 255
        assert gap.max() < 1.01 and gap.mean() < 1e-3


def test_other_files_decode_as_with_pillow(tmp_path: Path) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    image = picture(3)
    png = io.BytesIO()
    image.save(png, "PNG")
    odd = image.crop((0, 0, 119, 77))
    files = [
        jpeg(image), jpeg(odd, subsampling=2), jpeg(image.convert("L")), jpeg(image.convert("CMYK")), png.getvalue(),
        jpeg(image, exif=rotated), jpeg(image, progressive=True), jpeg(image) + b"\0\0",
    ]  # fmt: skip
    images = images_of(files)
    for index in range(len(files)):
        assert numpy.array_equal(images.open_lazily(index).to_rgb_array(), numpy.array(images.decode_rgb(index))), index
    images.decode_into_memory(False)
    assert numpy.array_equal(images.open_lazily(0).to_rgb_array(), numpy.array(images.decode_rgb(0)))


def test_broken_files_are_found_as_by_the_reference() -> None:
    whole = jpeg(picture(0))
    images = images_of([whole, whole[: len(whole) // 2], b"no image", whole[:40], whole])
    config = recipe("simsiam", size=16)
    for index in (1, 2, 3):
        error = FastViews(images, config.for_views(2), 0, False)[0, index]
        assert isinstance(error, BrokenImage) and error.name == f"{index}.jpg"
    views, reference = (
        FastViews(images, config.for_views(2), 0, True),
        Views(images, augment.build_view_transforms(config.for_views(2)), 0, True),
    )
    assert views[0, 1][2] == reference[0, 1][2] == ["1.jpg", "2.jpg", "3.jpg"]
    expected = levels([v[None] for v in reference[0, 1][0]], config)
    found = levels(views.to_float_views([v[None] for v in views[0, 1][0]], CPU), config)
    assert (expected - found).abs().mean() < 0.3


def test_large_files_are_decoded_at_a_reduced_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    config = recipe("supervised", size=32, crop_scale=[0.5, 1.0])
    images = images_of([jpeg(picture(i, 400, 300)) for i in range(8)])
    views, scales, decode = FastViews(images, config.for_views(1), 0, False), list[int](), LazyImage.to_pil_rgb
    keys = [(0, i) for i in range(8)]
    gap = levels(batch(Views(images, augment.build_view_transforms(config.for_views(1)), 0, False), keys), config)
    monkeypatch.setattr(LazyImage, "to_pil_rgb", lambda source, scale: scales.append(scale) or decode(source, scale))  # type: ignore[func-returns-value]
    gap = (gap - levels(batch(views, keys), config)).abs()
    assert len(scales) == 8 and set(scales) <= {2, 4}
    assert gap.mean() < 1 and gap.max() < 40


def test_the_setting_selects_the_pipeline(files: Images) -> None:
    config = recipe("simsiam", pipeline="fast")
    assert type(build_views(files, config.for_views(2), 0, False)) is FastViews
    assert build_views(files, config.for_views(2), 0, False, "cuda").batched  # type: ignore[attr-defined]
    assert type(build_views(files, replace(config, pipeline="reference").for_views(2), 0, False)) is Views
    assert type(build_views(files, recipe("none", pipeline="fast").for_views(1), 0, False)) is Views
    assert [r.solarize_p for r in recipe("byol").for_views(2)] == [0.0, 0.2]
    with pytest.raises(UserError, match="choose one of fast, reference"):
        check_values(recipe("simsiam", pipeline="quick"))


def test_a_whole_run_goes_as_with_the_reference(images: Path, tmp_path: Path) -> None:
    losses, short = [], ("epochs=1", "monitor.knn_every=0", "checkpoint.every_steps=0")
    for pipeline in ("reference", "fast"):
        folder = tmp_path / pipeline
        status, printed = run(
            "pretrain", small("simsiam", images, folder, f"augment.pipeline={pipeline}", *short), tmp_path
        )
        assert status == 0, printed
        assert (folder / "views.png").exists()
        losses.append([line["loss"] for line in lines(folder) if "loss" in line])
    assert losses[0][0] == pytest.approx(losses[1][0], abs=0.02)
    assert losses[0] != losses[1], "the setting changes nothing"


@pytest.mark.shared
def test_on_photographs(shared: Path) -> None:
    """The figures of docs/speed.md, on a part of the photographs."""
    paths = sorted((shared / "data" / "VOC2007" / "JPEGImages").glob("*.jpg"))[::60]
    images, config = images_of([path.read_bytes() for path in paths]), recipe("simsiam")
    keys = [(0, i) for i in range(len(paths))]
    expected = levels(batch(Views(images, augment.build_view_transforms(config.for_views(2)), 0, False), keys), config)
    for on_device in (False, True):
        gap = (
            expected - levels(batch(FastViews(images, config.for_views(2), 0, False, on_device), keys), config)
        ).abs()
        assert gap.mean() < 0.2 and gap.flatten(1).mean(dim=1).max() < 0.8 and (gap > 3.5).float().mean() < 5e-4
