"""Whether the outputs of a checkpoint are collapsed: what `python -m pretrain.collapse` measures."""

import random
from dataclasses import asdict
from pathlib import Path

import torch

from pretrain import monitor
from pretrain.collapse import figure, measures
from pretrain.collapse.outputs import Outputs, compute_outputs, load_method
from pretrain.evaluation import Evaluation, Result, evaluate
from pretrain.evaluation_config import CollapseConfig
from runs.errors import UserError
from runs.files import RANDOM

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


def verdict(health: monitor.Health, threshold: float) -> str:
    """`collapsed` or `not collapsed`, and by which number."""
    for name, value in (("std·√d", health.std / health.std_healthy), ("spread", health.spread)):
        if value < threshold:
            return f"collapsed: {name} is {value:.2g}"
    if health.effective_rank < 2:
        return f"collapsed: the effective rank is {health.effective_rank:.2g}"
    return "not collapsed"


def table(metrics: dict[str, float]) -> str:
    """The numbers as lines to read, each with what a healthy and a collapsed output have."""
    lines = [f"{'':20}{'value':>9}  {'healthy':>8}  {'collapsed':>9}  what it is"]
    for name, (healthy, collapsed, words) in MEANING.items():
        if name in metrics:
            good = f"{metrics['std_healthy']:.3g}" if healthy == "1/√d" else healthy
            lines.append(f"{name:20}{metrics[name]:9.3g}  {good:>8}  {collapsed:>9}  {words}")
    return "\n".join(lines)


def outputs(config: CollapseConfig, run: Evaluation) -> tuple[str, Outputs]:
    """What is measured, in words, and the outputs."""
    val = run.val
    indices = sorted(random.Random(config.seed).sample(range(len(val)), min(config.images, len(val))))
    ours = config.heads and config.checkpoint != RANDOM
    loaded = load_method(Path(config.checkpoint), run.train, run.device) if ours else None
    if loaded is None:
        return "the pooled features", Outputs(run.features(val, indices, config.batch_size).values.float())
    if config.augment.mean or config.augment.std:
        raise UserError("augment.mean, augment.std: the heads see the views of their training; add heads=false")
    method, augment = loaded
    found = compute_outputs(method, augment, val, indices, config.batch_size, config.seed, run.device)
    return "the heads' output", found


def evaluate_collapse(config: CollapseConfig) -> float:
    """Measure a checkpoint's outputs."""

    def measure(run: Evaluation) -> Result:
        run.describe()
        what, (z, z2, p, bias) = outputs(config, run)
        health = monitor.measure(z)
        spectrum = measures.spectrum(z)
        metrics = {**asdict(health), **measures.examine(z, p, bias, spectrum)}
        by_temperature = measures.decorrelation_cosines(z, z2) if z2 is not None else {}
        if by_temperature:
            metrics["r_e_cosine"], metrics["o_e_cosine"] = by_temperature[measures.TEMPERATURE]
        singular = spectrum.tolist()
        said = verdict(health, config.threshold)
        picture = run.output / "collapse.png"
        figure.save(picture, metrics, singular, z, p, by_temperature)
        print(f"{what}, {len(z)} images, d = {z.shape[1]}\n{table(metrics)}")
        details = {
            "output": what,
            "images": len(z),
            "dim": z.shape[1],
            "singular_values": [float(f"{s:.5g}") for s in singular],
            "decorrelation_cosines": [{"temperature": t, "r_e": r, "o_e": o} for t, (r, o) in by_temperature.items()],
        }
        return Result(metrics, details, f"{said}; picture {picture}", said)

    with torch.no_grad():
        return evaluate("collapse", config, measure)
