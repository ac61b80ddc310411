"""The detector: Detectron2's, with a norm after res5 in the region heads, and a backbone's weights, proved loaded.

`converters.proof` shows that two networks compute the same features; here, a detector's numbers are compared.
"""

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import Tensor, nn

from runs.distributed import world_size
from runs.errors import UserError, user_message
from transfer.backbone_file import REMEDY, BackboneFile


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """Res5 heads whose shared features pass one more norm.

    He et al., "Momentum Contrast" (arXiv:1911.05722), appendix A.3: a detector trained with batch norm in every layer
    needs normalised features before its new layers. The name is that of facebookresearch/moco@132aea9
    (detection/train_net.py), so that one YAML serves both, and so are the names of its tensors,
    `roi_heads.res5.norm.*`.
    """

    def __init__(self, cfg: Any, input_shape: Any) -> None:
        super().__init__(cfg, input_shape)
        # After every module of the parent, so that the random initial weights are drawn in the same order as there.
        self.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, self.res5[-1].out_channels))


class Float32SyncBatchNorm(NaiveSyncBatchNorm):
    """Batch norm over processes with float32 statistics of bfloat16 features.

    NOTE: Detectron2's own does so for float16 alone (detectron2/layers/batch_norm.py@a59f0563), and its variance is a
    difference of squares, of which the 8 bits of bfloat16 leave nothing.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, H, W); the output has the input's type."""
        output: Tensor = super().forward(input.float() if self.training else input)
        return output.to(input.dtype)


def use_float32_statistics(detector: nn.Module) -> None:
    """Give every batch norm over processes float32 statistics; parameters, buffers and names stay."""
    for module in detector.modules() if world_size() > 1 else ():
        if isinstance(module, NaiveSyncBatchNorm):
            # Only the forward pass differs.
            module.__class__ = Float32SyncBatchNorm


@contextlib.contextmanager
def as_user_errors(what: str) -> Iterator[None]:
    """What Detectron2 raises over settings that it cannot use becomes one line that begins with `what`.

    The same errors in code of this project, and what a GPU's libraries report, keep their tracebacks.
    """
    try:
        yield
    except (LookupError, ValueError, AssertionError, TypeError, AttributeError, ImportError, ZeroDivisionError,
            RuntimeError) as error:  # fmt: skip
        names = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
        # PyTorch's own layers raise over what their caller gives them.
        caller = next(name for name in reversed(names) if not name.startswith("torch.nn.modules."))
        # A LookupError's own text is the name in quotes.
        reason = " ".join(str(error.args[0] if isinstance(error, LookupError) and error.args else error).split())
        by_detectron2 = caller.startswith(("detectron2.", "fvcore.", "yacs."))
        if user_message(error) or not by_detectron2 or "CUDA error" in reason or "cuDNN" in reason:
            raise
        raise UserError(f"{what} ({reason or type(error).__name__})") from error


def build_detector(cfg: Any, channels_last: bool) -> nn.Module:
    """Build the detector that a configuration describes, on `cfg.MODEL.DEVICE` and with random weights.

    Raises:
        UserError: Detectron2 cannot build it.
    """
    with as_user_errors("recipe=, detectron2.…: Detectron2 cannot build this detector"):
        detector: nn.Module = build_model(cfg)
    use_float32_statistics(detector)
    return detector.to(memory_format=torch.channels_last) if channels_last else detector


def load_and_prove_equal(detector: nn.Module, backbone_file: BackboneFile) -> dict[str, Any]:
    """Copy every backbone tensor into the detector (res5 into its region heads), then prove that each one is there.

    The proof compares the detector's tensors with the file's bit for bit, after the copy and through `state_dict`. Of a
    C4 detector `backbone.*` and `roi_heads.res5.*` are loaded, without the extra norm after res5; of one with an FPN,
    `backbone.bottom_up.*`.

    Returns:
        Figures for the record: tensors and elements compared, the file's sha256, tensors of the file not used, and who
        says what the network expects at its input.

    Raises:
        UserError: a tensor is missing from the file, has another shape, or differs after loading.
    """
    wanted = _file_to_detector_names(detector)
    absent = [name for name in wanted if name not in backbone_file.tensors]
    # Caffe2's networks have their statistics folded into weight and bias: those of a new norm stay, mean 0 and variance
    # 1, or 1 - eps where it is frozen (detectron2/layers/batch_norm.py, FrozenBatchNorm2d).
    folded = [name for name in absent if name.endswith(("running_mean", "running_var"))] if backbone_file.folded else []
    if lost := [name for name in absent if name not in folded]:
        raise UserError(
            f"weights={backbone_file.path}: lacks {len(lost)} of {len(wanted)} backbone tensors, first {lost[0]}; "
            f"{REMEDY}"
        )
    state = detector.state_dict()
    wanted = {name: place for name, place in wanted.items() if name not in folded}
    # Not by load_state_dict: FrozenBatchNorm2d would replace the statistics that a state lacks, with variance 1.
    for name, place in wanted.items():
        tensor = torch.tensor(backbone_file.tensors[name])
        if tensor.shape != state[place].shape:
            raise UserError(
                f"weights={backbone_file.path}: {name} has shape {tuple(tensor.shape)}, the detector "
                f"{tuple(state[place].shape)}; leave MODEL.RESNETS to the file, or choose its arch"
            )
        state[place].copy_(tensor)
    return _prove(detector, backbone_file, wanted)


def _prove(detector: nn.Module, file: BackboneFile, wanted: dict[str, str]) -> dict[str, Any]:
    state, elements = detector.state_dict(), 0
    for name, place in wanted.items():
        expected = file.tensors[name].astype(np.float32)
        if not np.array_equal(state[place].cpu().numpy(), expected):
            raise UserError(
                f"weights={file.path}: {name} is not in the detector after loading; it holds no plain numbers"
            )
        elements += expected.size
    return {
        "tensors": len(wanted),
        "elements": elements,
        "equal": True,
        "sha256": file.sha256,
        "input": file.input,
        "unused": sorted(n for n in file.tensors if n not in wanted and not n.endswith("num_batches_tracked")),
    }


def _file_to_detector_names(detector: nn.Module) -> dict[str, str]:
    """Name in the file -> name in the detector, for all that comes from pre-training."""
    names = {}
    state = detector.state_dict()
    # Behind an FPN, whose own layers are new, the network is called bottom_up (detectron2/modeling/backbone/fpn.py).
    network = "backbone.bottom_up." if any(place.startswith("backbone.bottom_up.") for place in state) else "backbone."
    for place in state:
        if place.startswith(network):
            name = place.removeprefix(network)
        elif place.startswith("roi_heads.res5.") and not place.startswith("roi_heads.res5.norm."):
            name = place.removeprefix("roi_heads.")
        else:
            continue
        if not name.endswith("num_batches_tracked"):
            names[name] = place
    return names
