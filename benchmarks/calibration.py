"""How often does the gate cry wolf, and how small a drop does it see? Simulated detectors, the gate's own decision.

    python -m benchmarks.calibration --pairs 200 --images 500

A simulated detector finds each object with a probability and a precision that depend on the object's difficulty and on
the detector's skill. Training again with another seed changes every detection a little; how much (`SHARED`) is set so
that the AP on as many images as VOC 2007 test has spreads by the 0.2 points that are published for one trial.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.bootstrap import average_precision
from benchmarks.detections import Matches, match
from benchmarks.gate import judge
from benchmarks.gate_baseline import VOC_IMAGES, VOC_NOISE, Measured
from runs.app import Parser, cli

CLASSES = 20
OBJECTS_PER_IMAGE = 2.4  # VOC 2007 test: 12032 objects that are not difficult on 4952 images
FALSE_PER_IMAGE = 12
SIZE = 500.0
# Part of each detection's chance that is the image's and not the training's; the command prints what follows from it.
SHARED = 0.8


@dataclass(frozen=True)
class World:
    """The test images: objects with boxes and difficulties."""

    images: int
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    box: NDArray[np.float64]
    hardness: NDArray[np.float64]
    seed: int


def world(images: int, seed: int) -> World:
    """A test set."""
    random = np.random.default_rng(seed)
    objects = int(OBJECTS_PER_IMAGE * images)
    corner = random.uniform(1, SIZE - 120, size=(objects, 2)).round()
    box = np.concatenate([corner, corner + random.uniform(30, 120, size=(objects, 2)).round()], axis=1)
    classes = random.choice(CLASSES, size=objects, p=_frequencies())
    return World(images, random.integers(images, size=objects), classes, box, random.normal(size=objects), seed)


def _frequencies() -> NDArray[np.float64]:
    # Persons are more than a third of VOC's objects, the rarest class about a fiftieth.
    shares = np.concatenate([[0.35], np.full(CLASSES - 1, 0.65 / (CLASSES - 1))])
    return shares / shares.sum()


def detector(scene: World, skill: float, seed: int) -> Matches:
    """What a detector of a given skill (1 is about 50 AP) finds."""
    objects, false = len(scene.image), FALSE_PER_IMAGE * scene.images
    random, fixed = np.random.default_rng([seed, 7]), np.random.default_rng([scene.seed, 8])

    def normal(*shape: int) -> NDArray[np.float64]:
        return SHARED**0.5 * fixed.normal(size=shape) + (1 - SHARED) ** 0.5 * random.normal(size=shape)

    quality = skill - 0.5 * scene.hardness + 0.35 * normal(objects)
    seen = quality + 0.3 + 0.7 * normal(objects) > 0
    spread = np.clip(0.13 * np.exp(-0.7 * quality), 0.01, 0.5)[:, None]
    side = (scene.box[:, 2:] - scene.box[:, :2]).repeat(2, axis=1)
    box = (scene.box + normal(objects, 4) * spread * side - np.array([1, 1, 0, 0]))[seen]
    score = 1 / (1 + np.exp(-(1.2 * quality + 0.8 * normal(objects))))[seen]
    corner = fixed.uniform(0, SIZE - 120, size=(false, 2))
    false_box = np.concatenate([corner, corner + fixed.uniform(30, 120, size=(false, 2))], axis=1)
    false_score = 1 / (1 + np.exp(2.2 + 0.4 * skill - 1.2 * normal(false)))
    return match(
        [f"{i:06d}" for i in range(scene.images)], [f"class {i}" for i in range(CLASSES)],
        np.concatenate([scene.image[seen], fixed.integers(scene.images, size=false)]),
        np.concatenate([scene.category[seen], fixed.choice(CLASSES, size=false, p=_frequencies())]),
        np.concatenate([score, false_score]), np.concatenate([box, false_box]),
        scene.image, scene.category, scene.box, np.zeros(objects, bool),
    )  # fmt: skip


def slope() -> tuple[float, float]:
    """AP at skill 1, and AP points a unit of skill there, on a large test set."""
    scene = world(20_000, 99)
    low, middle, high = (average_precision(detector(scene, s, 1))[0, 0] for s in (0.9, 1.0, 1.1))
    return float(middle), float((high - low) / 0.2)


def spread(trials: int = 12) -> float:
    """Standard deviation of the AP of equal trainings on a set of the size of VOC 2007 test."""
    scene = world(VOC_IMAGES, 98)
    return float(np.std([average_precision(detector(scene, 1.0, s))[0, 0] for s in range(trials)], ddof=1))


def rate(pairs: int, images: int, drop: float, points: float, trials: int = 1, seed: int = 0) -> tuple[float, float]:
    """Share of pairs in which the gate fails, and the mean measured difference in AP.

    Args:
        pairs: simulated pairs, each with a test set of its own.
        images: test images.
        drop: true drop of the second detector, in AP points.
        points: AP points that a unit of skill is worth.
        trials: fine-tunings of each side.
        seed: of all of it.
    """
    failed, differences = 0, []
    for pair in range(pairs):
        scene = world(images, seed * 100_000 + pair)
        before, now = (
            _measured(
                [detector(scene, 1.0 - i * drop / points, 1000 * pair + 10 * t + i) for t in range(trials)], images
            )
            for i in (0, 1)
        )
        lines = judge({"voc07": before}, {"voc07": now}, 0.0, 2.0)
        failed += any(line.verdict == "fail" for line in lines)
        differences.append(lines[0].difference)
    return failed / pairs, float(np.mean(differences))


def _measured(trials: list[Matches], images: int) -> Measured:
    table = np.array([average_precision(matches)[0] for matches in trials])  # (trials, 3)
    values = {f"bbox/{name}": table[:, i].tolist() for i, name in enumerate(("AP", "AP50", "AP75"))}
    return Measured(values, dict(VOC_NOISE), False, VOC_IMAGES, images, trials)


@cli
def main(argv: list[str] | None = None) -> int:
    """Print the rates."""
    parser = Parser(prog="python -m benchmarks.calibration", description="the gate's false alarms and power")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--images", type=int, nargs="+", default=[500])
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--drops", type=float, nargs="+", default=[0.0, 1.0, 2.0, 3.0, 4.0])
    arguments = parser.parse_args(argv)
    level, points = slope()
    spreads = f"{spread():.2f} AP spread of a trial on {VOC_IMAGES} images (published: 0.2)"
    print(f"simulated detector: {level:.1f} AP, {spreads}")
    cases = [(i, t, d) for i in arguments.images for t in arguments.trials for d in arguments.drops]
    for images, trials, drop in cases:
        share, difference = rate(arguments.pairs, images, drop, points, trials)
        told = f"{images} images, {trials} trials a side, true drop {drop:.1f} AP: fails {100 * share:.1f} %"
        print(f"{told} of {arguments.pairs} pairs (mean difference {difference:+.2f})", flush=True)
    return 0


if __name__ == "__main__":
    main()
