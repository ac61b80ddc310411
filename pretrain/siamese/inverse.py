"""The inverse predictor (the second paper, algorithm 4)."""

from collections.abc import Callable

from torch import Tensor, nn


def inverse_loss(
    h: nn.Module, h_inv: nn.Module, z: list[Tensor], D: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Train h as SimSiam does, h_inv to undo it, and f with h as an encoder whose targets h_inv(p) are.

    NOTE: the algorithm prints the second half of the encoder's loss without its 1/2; both halves have it here.

    Args:
        h: the predictor.
        h_inv: its inverse.
        z: two views' outputs, each (n, d).
        D: negative similarity of (n, d) and (n, d), whose second argument is given as a constant.

    Returns:
        The output of `Method.forward`, and the three losses by name.
    """
    z_a, z_b = z  # n-by-d
    p_a, p_b = h(z_a), h(z_b)  # n-by-d
    d_p_a, d_p_b = h(z_a.detach()), h(z_b.detach())  # n-by-d
    predict = D(d_p_a, z_b.detach()) / 2 + D(d_p_b, z_a.detach()) / 2
    inv_p_a, inv_p_b = h_inv(p_a.detach()), h_inv(p_b.detach())  # n-by-d
    invert = D(inv_p_a, z_a.detach()) / 2 + D(inv_p_b, z_b.detach()) / 2
    # The algorithm calls h_inv(p) anew, once its argument is no longer detached; as a constant it is the same.
    encode = D(p_a, inv_p_b.detach()) / 2 + D(p_b, inv_p_a.detach()) / 2
    return {
        "loss": predict + invert + encode, "z": z_a, "z2": z_b, "p": p_a,
        "predict": predict.detach(), "invert": invert.detach(), "encode": encode.detach(),
    }  # fmt: skip
