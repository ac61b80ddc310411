"""The picture of `pretrain.collapse`: the spectrum, the statistics, the amount of the center."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from runs.files import atomic_write
from runs.palette import PALETTE

BLUE, RED, GREEN = PALETTE[:3]


def draw_measures(
    path: Path,
    metrics: Mapping[str, float],
    singular: Sequence[float],
    z: Tensor,
    p: Tensor | None,
    by_temperature: Mapping[float, tuple[float, float]],
) -> None:
    """Draw the numbers of outputs z (n, d) and predictions p (n, d) to the PNG `path`.

    `metrics` are those of `measure_health` and `measure_outputs`, the latter's too `singular` and `by_temperature`,
    which may be empty. Figure 5 (a) needs p.
    """
    from matplotlib.figure import Figure

    panels = 2 + (p is not None) + bool(by_temperature)
    figure = Figure(figsize=(3.6 * panels, 3.1), layout="constrained", dpi=110)
    spectrum, statistics, *others = figure.subplots(1, panels)
    shown = [max(s, 1e-8) for s in singular]
    spectrum.semilogy(range(1, len(shown) + 1), shown, color=BLUE)
    spectrum.axhline(metrics["std_healthy"], color="#777777", linestyle=":", label="1/√d: spread evenly")
    spectrum.set(title="Deviation along each direction", xlabel="direction", ylabel="singular value / √(n − 1)")
    spectrum.legend(frameon=False, fontsize=8)
    values = {"std·√d": metrics["std"] / metrics["std_healthy"], "spread": metrics["spread"], "m_r": metrics["m_r"],
              "m_o": metrics["m_o"]}  # fmt: skip
    bars = statistics.barh(list(values), list(values.values()), color=[BLUE, BLUE, BLUE, RED])
    statistics.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    statistics.set(title="Blue falls to 0, red rises to 1", xlim=(0, 1.25))
    statistics.invert_yaxis()
    if p is not None:
        # Figure 5 (a): where a curve crosses zero is the amount.
        axis = others.pop(0)
        o_z, o_p = (normalize(t.double(), dim=1).mean(0) for t in (z, p))  # d
        etas = torch.linspace(-1.5, 1.5, 121, dtype=torch.float64)
        for name, o_e, o, colour in (
            ("o_p in o_z − o_p", o_z - o_p, o_p, BLUE), ("o_z in o_p − o_z", o_p - o_z, o_z, RED),
        ):  # fmt: skip
            curve = cosine_similarity(o_e[None] - etas[:, None].to(o) * o, o[None], dim=1)  # etas
            axis.plot(etas, curve.cpu(), color=colour, label=name)
        axis.axhline(0, color="#777777", linewidth=0.8)
        axis.set(title="Amount of the center: the zero", xlabel="η", ylabel="cosine", ylim=(-1.05, 1.05))
        axis.legend(frameon=False, fontsize=8, loc="lower left")
    if by_temperature:
        # Figure 5 (c).
        axis = others.pop(0)
        for number, (name, line, colour) in enumerate((("r_e", "o-", GREEN), ("o_e", "s--", RED))):
            cosines = [pair[number] for pair in by_temperature.values()]
            axis.semilogx(list(by_temperature), cosines, line, color=colour, label=name)
        axis.set(title="InfoNCE's parts and de-correlation", xlabel="τ", ylabel="cosine", ylim=(-1.05, 1.05))
        axis.legend(frameon=False, fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata={"Software": None})
