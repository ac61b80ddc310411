"""Is one detector better than another, or is it the choice of the test images? For detections of any tool."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runs import bootstrap_intervals
from runs.average_precision import mean_average_precision
from runs.bootstrap_intervals import NAMES, Interval
from runs.detection_matches import Matches, read_matches
from runs.errors import UserError
from runs.notebook_table import html_table
from transfer.evaluate_detections import score_coco, score_voc


@dataclass(frozen=True)
class Comparison:
    """What compare() found; a notebook shows it as a table.

    Attributes:
        before: the first detector's numbers in percent, by `bbox/AP`, `bbox/AP50`, …; the mean of several trials.
        difference: the second's minus the first's, with the 95 % interval and the standard error that the choice of
            the images leaves it. What another training would change is in it as far as trials were given.
    """

    before: Mapping[str, float]
    difference: Mapping[str, Interval]

    @property
    def same(self) -> bool:
        """Whether every AP is the same within noise: 0 lies in the interval of its difference."""
        return all(i.low <= 0 <= i.high for name, i in self.difference.items() if name.endswith("/AP"))

    def _rows(self) -> list[list[str]]:
        verdicts = {(True, True): "same within noise", (True, False): "worse", (False, True): "better"}
        return [
            [name, f"{self.before[name]:.2f}", f"{self.before[name] + i.value:.2f}", f"{i.value:+.2f}",
             f"{i.low:+.2f} to {i.high:+.2f}", verdicts[i.low <= 0, i.high >= 0]]
            for name, i in self.difference.items()
        ]  # fmt: skip

    def __repr__(self) -> str:
        return "\n".join(f"{n} {a} -> {b}, {d} (95 %: {i}): {v}" for n, a, b, d, i, v in self._rows())

    def _repr_html_(self) -> str:
        heads = ("", "first", "second", "difference", "95 % interval", "verdict")
        return html_table("The second detector against the first", heads, self._rows())


def compare(
    a: str | Path | Sequence[str | Path],
    b: str | Path | Sequence[str | Path],
    annotations: str | Path | None = None,
    root: str | Path | None = None,
    split: str = "voc_2007_test",
    resamples: int = 1000,
) -> Comparison:
    """Compare two detectors on the same test images by the paired bootstrap of the gate.

    Args:
        a: detections of the first, or a list of its trials: COCO's results JSON, a folder of VOC's text files, a run's
            `detections.npz`; or its `matches.npz`, which needs no data set.
        b: of the second.
        annotations: COCO's instances JSON of the images.
        root: the folder that holds `VOC2007`, …, instead.
        split: of VOC.
        resamples: how often the images are drawn anew.

    Raises:
        UserError: a file is wrong, or the two were not measured on the same images and classes.
    """
    before, now = (_matches(given, annotations, root, split) for given in (a, b))
    kinds = [kind for kind in before[0] if all(kind in trial for trial in (*before, *now))]
    if not kinds:
        raise UserError("compare: one side has only boxes and the other only masks; give detections of the same kind")
    values: dict[str, float] = {}
    difference: dict[str, Interval] = {}
    for kind in kinds:
        first, second = ([trial[kind] for trial in trials] for trials in (before, now))
        found = bootstrap_intervals.compare(first, second, resamples)
        mean = sum(mean_average_precision(trial)[0] for trial in first) / len(first)
        values |= {f"{kind}/{name}": float(v) for name, v in zip(NAMES, mean, strict=True)}
        difference |= {f"{kind}/{name}": found[name] for name in NAMES}
    return Comparison(values, difference)


def _matches(
    given: str | Path | Sequence[str | Path], annotations: str | Path | None, root: str | Path | None, split: str
) -> list[dict[str, Matches]]:
    paths: Iterable[str | Path] = [given] if isinstance(given, str | Path) else given
    found = []
    for path in map(Path, paths):
        if path.name.endswith("matches.npz"):
            found.append(read_matches(path))
        elif annotations is not None:
            found.append(score_coco(path, Path(annotations)).matches)
        elif root is not None:
            found.append(score_voc(path, Path(root), split).matches)
        else:
            raise UserError(f"{path}: not a matches.npz; give annotations= (COCO) or root= and split= (VOC) beside it")
    return found
