"""Detectron2's evaluators with the uncertainty of their numbers: change the import, and nothing else.

Beside Detectron2's keys there are the ends of the 95 % interval that the choice of the test images leaves AP, AP50 and
AP75 (`AP-low`, `AP-high`, …), and COCO's other six figures (`AR1`, …).
"""

from pathlib import Path
from typing import Any

from detectron2 import evaluation
from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.utils import comm

from runs.bootstrap_intervals import Interval, intervals
from transfer.coco_evaluation import METRICS, COCOeval
from transfer.detections import Detections
from transfer.voc_annotations import read_text
from transfer.voc_evaluation import SplitTruth, evaluate_voc


class COCOEvaluator(evaluation.COCOEvaluator):
    """Detectron2's, with its arguments and values."""

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> dict[str, float]:
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None or iou_type == "keypoints":
            return results
        results |= {name: 100 * float(value) for name, value in zip(METRICS[6:], coco_eval.stats[6:], strict=True)}
        # Once more: Detectron2's compiled evaluation keeps no matches.
        again = COCOeval(coco_eval.cocoGt, coco_eval.cocoDt, iou_type)
        again.params = coco_eval.params
        return results | _ends(intervals(again.matches()))


class PascalVOCDetectionEvaluator(evaluation.PascalVOCDetectionEvaluator):
    """Detectron2's, with its arguments and values; of equal scores the earlier image comes first."""

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Called by all processes; AP in percent under `bbox` on the first, None on the others."""
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        ids = read_text(Path(self._image_set_path)).split()
        places = {image_id: number for number, image_id in enumerate(ids)}
        classes = {name: number for number, name in enumerate(self._class_names)}
        rows = [
            (places[image_id], category, float(score), float(x0) - 1, float(y0) - 1, float(x1), float(y1))
            for share in gathered
            for category, lines in share.items()
            for image_id, score, x0, y0, x1, y1 in map(str.split, lines)
        ]
        objects = [
            (number, classes[entry["name"]], *entry["bbox"], entry["difficult"])
            for number, image_id in enumerate(ids)
            for entry in parse_rec(self._anno_file_template.format(image_id))
            if entry["name"] in classes
        ]
        metric = "voc_2007" if self._is_2007 else "voc_area"
        found = Detections.from_table(rows, ids, self._class_names)
        evaluation = evaluate_voc(found, SplitTruth.from_table(objects), metric)
        metrics = {name.removeprefix("bbox/"): value for name, value in evaluation.metrics.items()}
        return {"bbox": metrics | _ends(intervals(evaluation.matches["bbox"]))}


def _ends(found: dict[str, Interval]) -> dict[str, float]:
    return {
        f"{name}-{end}": value
        for name, interval in found.items()
        for end, value in (("low", interval.low), ("high", interval.high))
    }
