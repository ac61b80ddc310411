"""Whether the outputs of a checkpoint are collapsed: what `python -m pretrain.collapse` measures.

Of a pre-training of ours the outputs z that were trained, with its heads; of any other file the features.
"""

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.augment import build_view_transforms
from pretrain.augment.views import Views
from pretrain.checkpoint import load_checkpoint
from pretrain.collapse.draw_checkpoint_measures import draw_measures
from pretrain.config import METHODS, AugmentConfig, CollapseConfig
from pretrain.data import Images
from pretrain.evaluation import Evaluation, EvaluationResult, evaluate, settings_beside
from pretrain.loader import iterate_batches
from pretrain.method.base import Method, TrainingPlan, build_method
from pretrain.output_measures import Health, bias_center_cosine, find_predictor_bias, measure_health, measure_outputs
from runs.errors import UserError
from runs.files import RANDOM
from runs.folder import CONFIG
from runs.tensor_files import restore_errors

# Images whose center a predictor's bias is compared with. Two views of each make a mean of 4096 outputs, whose standard
# error is a 64th of a residual.
CENTER = 2048
# What each number says: name, value of a healthy output, of a collapsed one, in words.
MEANING = {
    "std": ("1/√d", "0", "standard deviation of a channel of the normalized output"),
    "spread": ("1", "0", "√(1 − median cosine of two images)"),
    "m_o": ("0", "1", "length of the center, the mean output"),
    "m_r": ("1", "0", "mean length of what remains without it"),
    "covariance": ("0", "1", "mean squared covariance of two channels, times d"),
    "effective_rank": ("d", "1", "exp of the singular values' entropy"),
    "top_share": ("1/d", "1", "variance along the first direction"),
    "eta_p": ("< 0", "", "amount of o_p in o_z − o_p: SimSiam's extra gradient on the center"),
    "eta_z": ("", "> 0", "amount of o_z in o_p − o_z: Mirror SimSiam's"),
    "bias_center_cosine": ("", "", "cosine of the predictor's last bias and the center"),
    "r_e_cosine": ("", "", "cosine of InfoNCE's r_e and de-correlation, τ = 0.1"),
}


class Outputs(NamedTuple):
    """Of two views of n images, by a method in evaluation mode."""

    z: Tensor
    """(n, d), the first view's."""
    z2: Tensor | None = None
    """(n, d), the second's."""
    p: Tensor | None = None
    """(n, d), predictions from z; None without a predictor on it."""
    bias: Tensor | None = None
    """(d,), what the predictor adds last; None where it adds nothing."""


@torch.no_grad()
def compute_outputs(method: Method, views: Views, indices: list[int], batch_size: int = 256) -> Outputs:
    """Compute the outputs of the images at `indices`, two views of each; the method stays in evaluation mode.

    Raises:
        BrokenImage: an image cannot be decoded and the views have no `skip_broken`.
    """
    method.eval()
    device = next(method.parameters()).device
    keys = [(0, i) for i in indices]
    batches = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
    first, second, predicted = [], [], []
    for batch in iterate_batches(views, batches, num_workers=0):
        z, z2 = (method.project(x.to(device)).float() for x in batch.views)  # n-by-d
        first.append(z)
        second.append(z2)
        p = method.predict(z)  # n-by-d
        predicted += [] if p is None else [p.float()]
    z, p = torch.cat(first), torch.cat(predicted) if predicted else None
    return Outputs(z, torch.cat(second), p, find_predictor_bias(method, z.shape[1]))


def training_set_bias_cosine(
    method: Method, images: Images, augment: AugmentConfig, seed: int, skip_broken: bool
) -> dict[str, float]:
    """`bias_set_cosine`, that of the predictor's last bias and the center of `CENTER` images, two views of each.

    Nothing for a method without such a bias. The images are drawn by `seed`.
    """
    indices = sorted(random.Random(seed).sample(range(len(images)), min(len(images), CENTER)))
    views = Views(images, build_view_transforms(augment.for_views(2)), seed, skip_broken)
    z, z2, _, bias = compute_outputs(method, views, indices)
    assert z2 is not None
    return {} if bias is None else {"bias_set_cosine": bias_center_cosine(bias, z, z2)}


def load_method_and_augment(
    checkpoint: Path, settings: dict[str, Any], train_images: Images, device: torch.device
) -> tuple[Method, AugmentConfig]:
    """Load a checkpoint that `python -m pretrain` wrote, with its heads, and the views that it was trained on.

    `settings` are those beside it. The training images are asked for their number, on which a memory of a vector an
    image depends.

    Raises:
        UserError: the file or the `config.yaml` beside it is damaged, or the weights do not fit the images.
    """
    with restore_errors(checkpoint.parent / CONFIG, "give heads=false"):
        augment = AugmentConfig(**settings["augment"])
        plan = TrainingPlan(
            settings["arch"], settings["zero_init_residual"], settings["epochs"],
            max(len(train_images) // settings["batch_size"], 1), settings["batch_size"], len(train_images.classes),
            len(train_images),
        )  # fmt: skip
        method = build_method(METHODS[settings["method"]["name"]](**settings["method"]), plan)
    state = load_checkpoint(checkpoint)["state_dict"]
    try:
        method.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    except RuntimeError as error:
        raise UserError(
            f"{checkpoint}: its weights do not fit {train_images.name} ({str(error).splitlines()[-1].strip()}); give "
            "the data that it was trained on, or heads=false"
        ) from error
    return method.to(device), augment


def verdict(health: Health, threshold: float) -> str:
    """`collapsed` or `not collapsed`, and by which number."""
    for name, value in (("std·√d", health.std / health.std_healthy), ("spread", health.spread)):
        if value < threshold:
            return f"collapsed: {name} is {value:.2g}"
    if health.effective_rank < 2:
        return f"collapsed: the effective rank is {health.effective_rank:.2g}"
    return "not collapsed"


def format_metrics(metrics: dict[str, float]) -> str:
    """The numbers as lines to read, each with what a healthy and a collapsed output have."""
    lines = [f"{'':20}{'value':>9}  {'healthy':>8}  {'collapsed':>9}  what it is"]
    for name, (healthy, collapsed, words) in MEANING.items():
        if name in metrics:
            good = f"{metrics['std_healthy']:.3g}" if healthy == "1/√d" else healthy
            lines.append(f"{name:20}{metrics[name]:9.3g}  {good:>8}  {collapsed:>9}  {words}")
    return "\n".join(lines)


def _outputs_to_measure(config: CollapseConfig, evaluation: Evaluation) -> tuple[str, Outputs]:
    """What is measured, in words, and the outputs."""
    val = evaluation.val
    indices = sorted(random.Random(config.seed).sample(range(len(val)), min(config.images, len(val))))
    checkpoint = Path(config.checkpoint)
    settings = settings_beside(checkpoint) if config.heads and config.checkpoint != RANDOM else {}
    if not settings:
        features = evaluation.extract_features(val, indices, config.batch_size)
        return "the pooled features", Outputs(features.values.float())
    if config.augment.mean or config.augment.std:
        raise UserError("augment.mean, augment.std: the heads see the views of their training; add heads=false")
    method, augment = load_method_and_augment(checkpoint, settings, evaluation.train, evaluation.device)
    views = Views(val, build_view_transforms(augment.for_views(2)), config.seed, config.data.skip_broken)
    return "the heads' output", compute_outputs(method, views, indices, config.batch_size)


def evaluate_collapse(config: CollapseConfig) -> float:
    """Measure a checkpoint's outputs."""

    def measure(evaluation: Evaluation) -> EvaluationResult:
        evaluation.print_data_sets()
        what, (z, z2, p, bias) = _outputs_to_measure(config, evaluation)
        health = measure_health(z)
        found, singular, by_temperature = measure_outputs(z, z2, p, bias)
        metrics = asdict(health) | found
        said = verdict(health, config.threshold)
        picture = evaluation.run.path / "collapse.png"
        draw_measures(picture, metrics, singular.tolist(), z, p, by_temperature)
        print(f"{what}, {len(z)} images, d = {z.shape[1]}\n{format_metrics(metrics)}")
        details = {
            "output": what,
            "images": len(z),
            "dim": z.shape[1],
            "singular_values": [float(f"{s:.5g}") for s in singular.tolist()],
            "decorrelation_cosines": [{"temperature": t, "r_e": r, "o_e": o} for t, (r, o) in by_temperature.items()],
        }
        return EvaluationResult(metrics, details, f"{said}; picture {picture}", said)

    with torch.no_grad():
        return evaluate("collapse", config, measure)
