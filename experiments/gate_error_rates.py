"""How often does the gate report a drop where there is none, and how small a drop does it detect? Simulated.

    python -m experiments.gate_error_rates --pairs 200 --images 500 --output outputs/gate.json --figure gate.png

A simulated detector finds each object with a probability and a precision that depend on the object's difficulty and on
the detector's skill. Training again with another seed changes every detection a little; how much (`SHARED`) is set so
that the AP on as many images as VOC 2007 test has spreads by the 0.2 points that are published for one trial.
"""

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate.comparison import compare_runs
from benchmarks.gate.trials import VOC_IMAGES, VOC_NOISE, Trials
from benchmarks.report.charts import Chart, Curve, draw_chart
from runs.app import Parser, cli
from runs.average_precision import mean_average_precision
from runs.detection_matches import Matches
from runs.files import atomic_write, read_json, write_json
from transfer.detections import Detections
from transfer.voc_evaluation import SplitTruth, match_voc

CLASSES = 20
OBJECTS_PER_IMAGE = 2.4  # VOC 2007 test: 12032 objects that are not difficult on 4952 images
FALSE_PER_IMAGE = 12
SIZE = 500.0
# Part of each detection's chance that is the image's and not the training's; the command prints what follows from it.
SHARED = 0.8
# A fifth of the gate's own number, to save time: an error is then uncertain by a twentieth instead of a fiftieth.
RESAMPLES = 200


@dataclass(frozen=True)
class ImageSet:
    """A test set: objects with boxes and difficulties."""

    images: int
    image: NDArray[np.int64]
    category: NDArray[np.int64]
    box: NDArray[np.float64]
    difficulty: NDArray[np.float64]
    seed: int


def draw_image_set(images: int, seed: int) -> ImageSet:
    """A test set drawn at random."""
    random = np.random.default_rng(seed)
    objects = int(OBJECTS_PER_IMAGE * images)
    corner = random.uniform(1, SIZE - 120, size=(objects, 2)).round()
    box = np.concatenate([corner, corner + random.uniform(30, 120, size=(objects, 2)).round()], axis=1)
    classes = random.choice(CLASSES, size=objects, p=_frequencies())
    return ImageSet(images, random.integers(images, size=objects), classes, box, random.normal(size=objects), seed)


def _frequencies() -> NDArray[np.float64]:
    # Persons are more than a third of VOC's objects, the rarest class about a fiftieth.
    shares = np.concatenate([[0.35], np.full(CLASSES - 1, 0.65 / (CLASSES - 1))])
    return shares / shares.sum()


def simulate_detector(scene: ImageSet, skill: float | NDArray[np.float64], seed: int) -> Matches:
    """What a detector of a given skill, one for all classes or one each, finds; 1 is about 50 AP."""
    objects, false = len(scene.image), FALSE_PER_IMAGE * scene.images
    skills = np.broadcast_to(np.asarray(skill, np.float64), CLASSES)
    random, fixed = np.random.default_rng([seed, 7]), np.random.default_rng([scene.seed, 8])

    def normal(*shape: int) -> NDArray[np.float64]:
        return SHARED**0.5 * fixed.normal(size=shape) + (1 - SHARED) ** 0.5 * random.normal(size=shape)

    quality = skills[scene.category] - 0.5 * scene.difficulty + 0.35 * normal(objects)
    seen = quality + 0.3 + 0.7 * normal(objects) > 0
    scatter = np.clip(0.13 * np.exp(-0.7 * quality), 0.01, 0.5)[:, None]
    side = (scene.box[:, 2:] - scene.box[:, :2]).repeat(2, axis=1)
    box = (scene.box + normal(objects, 4) * scatter * side - np.array([1, 1, 0, 0]))[seen]
    score = 1 / (1 + np.exp(-(1.2 * quality + 0.8 * normal(objects))))[seen]
    corner = fixed.uniform(0, SIZE - 120, size=(false, 2))
    false_box = np.concatenate([corner, corner + fixed.uniform(30, 120, size=(false, 2))], axis=1)
    false_noise = normal(false)
    false_image, false_category = (
        fixed.integers(scene.images, size=false), fixed.choice(CLASSES, size=false, p=_frequencies())
    )  # fmt: skip
    false_score = 1 / (1 + np.exp(2.2 + 0.4 * skills[false_category] - 1.2 * false_noise))
    names = [f"class {i}" for i in range(CLASSES)]
    found = Detections(
        [f"{i:06d}" for i in range(scene.images)], names, np.concatenate([scene.image[seen], false_image]),
        np.concatenate([scene.category[seen], false_category]), np.concatenate([score, false_score]),
        np.concatenate([box, false_box]), np.full((scene.images, 2), int(SIZE)),
    )  # fmt: skip
    truth = SplitTruth(scene.image, scene.category, scene.box, np.zeros(objects, bool))
    return match_voc(found, truth)


def ap_and_slope() -> tuple[float, float]:
    """AP at skill 1, and AP points a unit of skill there, on a large test set."""
    scene = draw_image_set(20_000, 99)
    low, middle, high = (mean_average_precision(simulate_detector(scene, s, 1))[0, 0] for s in (0.9, 1.0, 1.1))
    return float(middle), float((high - low) / 0.2)


def trial_std(trials: int = 12) -> float:
    """Standard deviation of the AP of equal trainings on a set of the size of VOC 2007 test."""
    scene = draw_image_set(VOC_IMAGES, 98)
    return float(
        np.std([mean_average_precision(simulate_detector(scene, 1.0, s))[0, 0] for s in range(trials)], ddof=1)
    )


@dataclass(frozen=True)
class Case:
    """One question: `images` test images, `trials` fine-tunings a side, a true `drop` in AP points in so many classes.

    The rarer classes have it; the drop of the mean over all classes is the same.
    """

    images: int
    trials: int
    drop: float
    classes: int = CLASSES


def gate_fails(case: Case, pair: int, points: float) -> bool:
    """Whether the gate fails on one simulated pair.

    Args:
        case: the question.
        pair: its number; each has a test set and trainings of its own.
        points: AP points that a unit of skill is worth.
    """
    scene = draw_image_set(case.images, pair)
    worse = np.ones(CLASSES)
    worse[CLASSES - case.classes :] -= case.drop / points * CLASSES / case.classes
    before, now = (
        _measured([simulate_detector(scene, skill, 1000 * pair + 10 * t + i) for t in range(case.trials)], case.images)
        for i, skill in enumerate((np.ones(CLASSES), worse))
    )
    return any(line.verdict == "fail" for line in compare_runs({"voc07": before}, {"voc07": now}, 0.0, 2.0, RESAMPLES))


def _measured(trials: list[Matches], images: int) -> Trials:
    table = np.array([mean_average_precision(matches)[0] for matches in trials])  # (trials, 3)
    values = {f"bbox/{name}": table[:, i].tolist() for i, name in enumerate(("AP", "AP50", "AP75"))}
    measured = Trials(values, images, "", dict(VOC_NOISE), False, VOC_IMAGES)
    measured.matches = trials
    return measured


def draw_power(shares: dict[Case, float]) -> bytes:
    """The power: the share of pairs that fail over the true drop in AP, a curve a size, as PNG."""
    from matplotlib.figure import Figure

    lines: list[Curve] = []
    for images, trials, classes in sorted({(c.images, c.trials, c.classes) for c in shares}):
        drops = sorted(c.drop for c in shares if (c.images, c.trials, c.classes) == (images, trials, classes))
        found = [100 * shares[Case(images, trials, drop, classes)] for drop in drops]
        label = f"{images} images, {trials} trial{'s' * (trials > 1)} a side"
        label += "" if classes == CLASSES else f", all of it in {classes} classes"
        lines.append(Curve(label, drops, found, len(lines)))
    figure = Figure(figsize=(5.2, 3.0 + 0.2 * (len(lines) + 1)), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    level = (80.0, "four times out of five")
    title, x, y = "How often the gate fails", "true drop in AP", "pairs that fail (%)"
    draw_chart(axes, Chart(title, x, y, lines, level, markers=True, from_zero=True))
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def read_counts(path: Path | None) -> dict[Case, list[int]]:
    """Pairs done and pairs failed of every case that a file holds."""
    rows = read_json(path) if path and path.exists() else []
    return {Case(**row["case"]): [row["pairs"], row["failed"]] for row in rows}


@cli
def main(argv: list[str] | None = None) -> int:
    """Print the rates."""
    parser = Parser(prog="python -m experiments.gate_error_rates", description="the gate's false alarms and power")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--images", type=int, nargs="+", default=[500])
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--drops", type=float, nargs="+", default=[0.0, 1.0, 2.0, 3.0])
    parser.add_argument("--classes", type=int, default=CLASSES, help="how many of the 20 classes have the drop")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="keep the counts, and add to those kept")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the power of all that is kept")
    arguments = parser.parse_args(argv)
    level, points = ap_and_slope()
    deviation = f"{trial_std():.2f} AP standard deviation of a trial on {VOC_IMAGES} images (published: 0.2)"
    print(f"simulated detector: {level:.1f} AP, {deviation}")
    found = read_counts(arguments.output)
    for case in (
        Case(i, t, d, arguments.classes) for i in arguments.images for t in arguments.trials for d in arguments.drops
    ):
        done = found.setdefault(case, [0, 0])
        while done[0] < arguments.pairs:
            done[1] += gate_fails(case, done[0], points)
            done[0] += 1
            if arguments.output and (done[0] % 20 == 0 or done[0] == arguments.pairs):
                rows = [{"case": asdict(c), "pairs": pairs, "failed": failed} for c, (pairs, failed) in found.items()]
                write_json(arguments.output, rows)
        where = "" if case.classes == CLASSES else f" in {case.classes} classes"
        told = f"{case.images} images, {case.trials} trials a side, true drop {case.drop:.1f} AP{where}"
        print(f"{told}: fails {100 * done[1] / done[0]:.1f} % of {done[0]} pairs", flush=True)
    if arguments.figure:
        with atomic_write(arguments.figure) as file:
            file.write(draw_power({case: failed / pairs for case, (pairs, failed) in found.items() if pairs}))
    return 0


if __name__ == "__main__":
    main()
