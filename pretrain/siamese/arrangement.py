"""Where the predictor stands: which of a pair's two outputs is compared with which."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Outputs = Sequence[Tensor]
Predictions = Mapping[int, Tensor]
Pair = tuple[Tensor, Tensor]


def predict(z: Outputs, t: Outputs, p: Predictions, a: int, b: int) -> Pair:
    """SimSiam: the prediction of one view learns the other's target."""
    return p[a], t[b]


def mirror(z: Outputs, t: Outputs, p: Predictions, a: int, b: int) -> Pair:
    """Mirror SimSiam (the second paper, algorithm 2): one view's output learns the other's prediction, and h too."""
    return z[a], p[b]


def both(z: Outputs, t: Outputs, p: Predictions, a: int, b: int) -> Pair:
    """Symmetric predictor (the second paper, algorithm 3): predictions on both sides, one of them constant.

    NOTE: the text of section 2.3 lets h learn by equation 2; the algorithm, which this is, by the same loss as f.
    """
    return p[a], p[b].detach()


ARRANGEMENTS: dict[str, Callable[[Outputs, Outputs, Predictions, int, int], Pair]] = {
    "predict": predict,
    "mirror": mirror,
    "both": both,
}
"""From outputs z, targets t and predictions p by view, and a pair of views: what learns, and its target."""
