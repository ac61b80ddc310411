"""Numbers of a batch of outputs: how far they are from a collapse, and which parts of a gradient keep them from it.

docs/collapse.md reads them. The paper, throughout: Zhang et al., How Does SimSiam Avoid Collapse Without Negative
Samples?, ICLR 2022. Capital letters are L2-normalized rows, o is their mean over the batch (section 3.1), r what
remains of a row without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

# Temperatures of figure 5 (c); the text names 0.1 and 0.2.
TEMPERATURES = (0.05, 0.1, 0.2, 0.5, 1.0)
TEMPERATURE = 0.1
# Outputs whose pairs are compared: 130,000 pairs are enough for a median, and more would only cost time.
PAIRS = 512


@dataclass(frozen=True)
class Health:
    """The numbers of one batch of outputs."""

    std: float
    """Standard deviation of the L2-normalized output over the images, averaged over channels (SimSiam, figure 2)."""
    std_healthy: float
    """1 / sqrt(d): its value for an isotropic output."""
    m_o: float
    """Length of the mean of the normalized outputs (section 3.1); 1 when collapsed."""
    m_r: float
    """Mean length of what remains of them; 0 when collapsed."""
    covariance: float
    """Mean squared off-diagonal covariance of the normalized output times sqrt(d); 0 decorrelated, 1 all the same."""
    effective_rank: float
    """exp of the entropy of the centred output's normalized singular values (Roy, Vetterli, EUSIPCO 2007); 1 to d."""
    spread: float
    """sqrt(1 - median cosine of two images' outputs): 1 healthy, 0 collapsed.

    With the mean for the median it would be std * sqrt(d). The std misses a collapse after a batch norm, which centres
    the batch: a few images, others in each batch, then oppose all the rest and hold the std of n images above
    2 / sqrt(n d). The median passes over them.
    """


@torch.no_grad()
def measure_health(z: Tensor) -> Health:
    """Measure a batch of outputs z (n, d), n at least 2."""
    z = normalize(z.detach().double(), dim=1)  # n-by-d
    n, d = z.shape
    o = z.mean(dim=0)  # d
    r = z - o  # n-by-d
    # The smaller Gram matrix has the same eigenvalues, and the sums of squares of the covariance follow from it.
    gram = r @ r.T if n < d else r.T @ r  # min(n, d) squared
    variances = r.square().sum(0) / (n - 1)  # d
    off_diagonal = (gram.square().sum() / (n - 1) ** 2 - variances.square().sum()).clamp(min=0)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    # Nothing but rounding is left of an output that is constant: its rank is 1, not the rounding's.
    share = singular[singular > 1e-6] / singular[singular > 1e-6].sum()
    some = z[:PAIRS]
    cosines = (some @ some.T)[~torch.eye(len(some), dtype=torch.bool, device=z.device)]  # pairs
    return Health(
        std=variances.sqrt().mean().item(),
        std_healthy=d**-0.5,
        m_o=o.norm().item(),
        m_r=r.norm(dim=1).mean().item(),
        covariance=(off_diagonal * d**2 / max(d * (d - 1), 1)).item(),
        effective_rank=torch.exp(-(share * share.log()).sum()).item() if len(share) else 1.0,
        spread=(1 - cosines.median()).clamp(0, 1).sqrt().item(),
    )


class Measures(NamedTuple):
    """What `measure_outputs` finds."""

    metrics: dict[str, float]
    """By name; see there."""
    singular: Tensor
    """`spectrum(z)`."""
    by_temperature: dict[float, tuple[float, float]]
    """`infonce_decorrelation_cosines(z, z2)`; empty without z2."""


@torch.no_grad()
def measure_outputs(
    z: Tensor, z2: Tensor | None = None, p: Tensor | None = None, bias: Tensor | None = None,
    temperatures: Sequence[float] = TEMPERATURES,
) -> Measures:  # fmt: skip
    """Measure an encoder's output z and, where there is a predictor, its output p = h(z) on the same rows.

    Args:
        z: (n, d), n at least 2.
        z2: (n, d), of another view.
        p: (n, d).
        bias: (d,), the predictor's last bias.
        temperatures: of InfoNCE, `TEMPERATURE` among them.

    Returns:
        `metrics` of these names:
        `top_share`: share of the largest singular value's square in their sum, 1 for outputs on a line.
        `p_std`, `p_m_o`: as `std` and `m_o` of `Health`, of the prediction.
        `eta_p`: the amount of o_p in o_e = o_z - o_p, SimSiam's extra center gradient on P (figure 5 a, -0.5 there):
        the factor for which o_e - eta o_p is orthogonal to o_p. Negative: it pushes the center away.
        `eta_z`: the amount of o_z in o_p - o_z, Mirror SimSiam's on Z (the same figure, 0.2 there). Positive: it feeds
        the center.
        `o_e`: the length of o_e over that of o_z: whether there is an extra center gradient at all.
        `bias_center_cosine`: of the bias and the center o_z (table 6).
        `r_e_cosine`, `o_e_cosine`: figure 5 (c) at `TEMPERATURE`.
    """
    Z = normalize(z.double(), dim=1)  # n-by-d
    o_z = Z.mean(dim=0)  # d
    singular = spectrum(z)
    variances = singular.square()
    found = {"top_share": (variances[0] / variances.sum().clamp(min=1e-300)).item()}
    if p is not None:
        P = normalize(p.double(), dim=1)  # n-by-d
        o_p = P.mean(dim=0)  # d
        found |= {
            "p_std": P.std(dim=0).mean().item(),
            "p_m_o": o_p.norm().item(),
            "eta_p": _projection_coefficient(o_z - o_p, o_p),
            "eta_z": _projection_coefficient(o_p - o_z, o_z),
            "o_e": ((o_z - o_p).norm() / o_z.norm().clamp(min=1e-12)).item(),
        }
    if bias is not None:
        found["bias_center_cosine"] = cosine_similarity(bias.double(), o_z, dim=0).item()
    by_temperature = infonce_decorrelation_cosines(z, z2, temperatures) if z2 is not None else {}
    if by_temperature:
        found["r_e_cosine"], found["o_e_cosine"] = by_temperature[TEMPERATURE]
    return Measures(found, singular, by_temperature)


def _projection_coefficient(vector: Tensor, part: Tensor) -> float:
    """How much of `part` is in `vector`: the eta for which vector - eta part is orthogonal to part, both (d,)."""
    return (vector @ part / (part @ part).clamp(min=1e-24)).item()


@torch.no_grad()
def spectrum(z: Tensor) -> Tensor:
    """Singular values of the centred normalized output over sqrt(n - 1): deviations along the principal directions.

    From (n, d) to (min(n, d),) float64, the largest first. Their squares sum to the summed variances of the channels,
    which for an output spread evenly over the sphere is 1.
    """
    Z = normalize(z.double(), dim=1)  # n-by-d
    r = Z - Z.mean(dim=0)  # n-by-d
    gram = r @ r.T if len(r) < r.shape[1] else r.T @ r  # min(n, d) squared
    return torch.linalg.eigvalsh(gram).flip(0).clamp(min=0).div(max(len(r) - 1, 1)).sqrt()


def negative_decorrelation_gradient(z: Tensor) -> Tensor:
    """The negative gradient of the de-correlation loss (algorithm 5: squared off-diagonal covariances over d) on Z.

    From (n, d) to (n, d) float64, by the closed form -4 / (d (n - 1)) R C, with R the centred rows and C the covariance
    without its diagonal. (Centring once more changes nothing: the columns of R C sum to 0.)
    """
    Z = normalize(z.detach().double(), dim=1)  # n-by-d
    n, d = Z.shape
    R = Z - Z.mean(dim=0)  # n-by-d
    variances = R.square().sum(dim=0) / (n - 1)  # d
    # R C by way of R R^T, because d exceeds n in training.
    return -4 / (d * (n - 1)) * ((R @ R.T) @ R / (n - 1) - R * variances)


@torch.no_grad()
def infonce_decorrelation_cosines(
    z_a: Tensor, z_b: Tensor, temperatures: Sequence[float] = TEMPERATURES
) -> dict[float, tuple[float, float]]:
    """Does InfoNCE de-correlate? Cosines of its extra gradient's parts with that of the de-correlation loss.

    Equation 6: the extra gradient on Z_a is -sum_i lambda_i Z_i = -o_z - sum_i lambda_i r_i over the positive Z_b and
    the negatives, here the other images' two views, with lambda the softmax of Z_a . Z_i / tau.

    From two views' outputs, (n, d) each; returns by temperature tau the cosines of (r_e, o_e), averaged over images
    (figure 5 c).
    """
    a, b = normalize(z_a.double(), dim=1), normalize(z_b.double(), dim=1)  # n-by-d
    target = negative_decorrelation_gradient(a)  # n-by-d
    others = torch.cat([b, a])  # 2n-by-d
    o = others.mean(dim=0)  # d
    itself = torch.cat([torch.zeros(len(a), len(a)), torch.eye(len(a))], dim=1).bool().to(a.device)  # n-by-2n
    found = {}
    for tau in temperatures:
        weights = (a @ others.T / tau).masked_fill(itself, float("-inf")).softmax(dim=1)  # n-by-2n
        r_e = -weights @ (others - o)  # n-by-d
        found[tau] = (
            cosine_similarity(r_e, target, dim=1).mean().item(),
            cosine_similarity(-o.expand_as(target), target, dim=1).mean().item(),
        )
    return found


def find_predictor_bias(method: nn.Module, width: int) -> Tensor | None:
    """The bias that a method's predictor adds last, (width,); None where it has none."""
    predictor = getattr(method, "predictor", None)
    modules = list(predictor.modules()) if isinstance(predictor, nn.Module) else []
    bias = getattr(modules[-1], "bias", None) if modules else None
    return bias.detach() if isinstance(bias, Tensor) and bias.shape == (width,) else None


@torch.no_grad()
def bias_center_cosine(bias: Tensor, *views: Tensor) -> float:
    """The cosine of a bias (d,) and the center of outputs (n, d) each: of many images, not of a batch (table 6).

    The paper defines o as an expectation and approximates it by a batch (section 3.1); of 64 images the mean is not yet
    the center.
    """
    o_z = torch.cat([normalize(z.double(), dim=1) for z in views]).mean(dim=0)  # d
    return cosine_similarity(bias.double(), o_z, dim=0).item()
