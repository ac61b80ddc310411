"""The settings of the methods, a dataclass each: without PyTorch, so that `--help` and a mistyped key are quick."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from runs.errors import UserError
from runs.settings import choice, number


@dataclass
class MethodConfig:
    """Settings of one method; each method extends it."""

    name: str = MISSING
    """The method's name, that of its file."""


@dataclass
class SimSiamConfig(MethodConfig):
    """Settings of SimSiam."""

    name: str = "simsiam"
    dim: int = number(2048, least=1)
    """d: width of z and p."""
    hidden: int = number(512, least=1)
    """Width of the predictor's hidden layer, a quarter of d in the paper (section 3)."""
    layers: int = number(3, least=2, most=3)
    """Layers of the projector: 3, and 2 on CIFAR (appendix D)."""
    fix_predictor_lr: bool = True
    """Keep the predictor's learning rate constant (section 4.2; `--fix-pred-lr` of the release)."""
    stop_gradient: bool = True
    """Stop the gradient at z. Without it the network collapses (section 4.1); for experiments only."""


@dataclass
class SimCLRConfig(MethodConfig):
    """Settings of SimCLR."""

    name: str = "simclr"
    dim: int = number(128, least=1)
    """Width of z."""
    layers: int = number(3, least=1)
    """Layers of g: 2 in the paper, 3 in the SimSiam paper's improved reproduction (appendix C)."""
    temperature: float = number(0.1, above=0)
    """tau."""
    reduction: str = choice("sum", "mean")
    """Of the two directions' losses: sum, as released, or mean, as the paper writes it."""
    predictor: int = number(0, least=0)
    """Hidden width of SimSiam's predictor on the side of the queries (SimSiam, section 6.2); 0 for none."""
    stop_gradient: bool = False
    """Stop the gradient at the keys (the same section)."""

    def check_consistency(self) -> None:
        if self.stop_gradient and not self.predictor:
            raise UserError("method.stop_gradient=true: needs a predictor; add method.predictor=32")


@dataclass
class MoCoConfig(MethodConfig):
    """Settings of MoCo v2."""

    name: str = "moco"
    dim: int = number(128, least=1)
    """C: width of queries and keys."""
    queue: int = number(65536, least=1)
    """K: keys in the queue, a multiple of the keys of a step."""
    momentum: float = number(0.999, least=0, most=1)
    """m: of the key encoder."""
    temperature: float = number(0.2, above=0)
    """t."""
    symmetrized: bool = True
    """Use each view as query and as key (SimSiam paper, appendix C); MoCo v2 itself takes view 1 as query only."""
    reduction: str = choice("sum", "mean")
    """Of the symmetrized loss's two terms."""
    shuffle: bool = True
    """Shuffling BN: the key encoder sees the images in another order (section 3.3)."""
    bn_groups: int = number(1, least=1)
    """Groups of a step's images, all processes together, with batch-norm statistics of their own; a process is at least
    one."""


@dataclass
class BYOLConfig(MethodConfig):
    """Settings of BYOL."""

    name: str = "byol"
    dim: int = number(256, least=1)
    """Width of z and q."""
    hidden: int = number(4096, least=1)
    """Width of the hidden layers of projector and predictor."""
    momentum: float = number(0.996, least=0, most=1)
    """tau_base: the target's decay rate at the start; it rises to 1 along a cosine."""


@dataclass
class SwAVConfig(MethodConfig):
    """Settings of SwAV."""

    name: str = "swav"
    dim: int = number(128, least=1)
    """D: width of z."""
    hidden: int = number(2048, least=1)
    """Width of the projector's hidden layers."""
    layers: int = number(3, least=1)
    """Layers of the projector: 2 in the paper, 3 in the SimSiam paper's improved reproduction (appendix C)."""
    prototypes: int = number(3000, least=2)
    """K: number of prototypes."""
    temperature: float = number(0.1, above=0)
    """temp."""
    epsilon: float = number(0.05, above=0)
    """eps: smoothness of the assignments."""
    iterations: int = number(3, least=1)
    """niters: of Sinkhorn-Knopp."""
    freeze_epochs: int = number(1, least=0)
    """Epochs that leave the prototypes as they are."""
    queue: int = number(0, least=0)
    """Earlier projections of each view that the assignments take into account, a multiple of batch_size; 0 for none."""
    queue_from_epoch: int = number(15, least=0)
    """Epoch, counted from 0, whose projections are the queue's first."""
    predictor: int = number(0, least=0)
    """Hidden width of SimSiam's predictor after the prototypes, on the side that predicts; 0 for none (SimSiam,
    section 6.2, whose encoder includes the prototypes)."""
    stop_gradient: bool = True
    """Make the codes constants. Without it the training diverges (the same section); for experiments only."""


@dataclass
class SupervisedConfig(MethodConfig):
    """Settings of supervised training: there are none."""

    name: str = "supervised"


REMOVABLE = ("o_e", "r_e")


@dataclass
class SiameseConfig(SimSiamConfig):
    """Settings of the composition; the defaults are SimSiam."""

    name: str = "siamese"
    projector_bn: str = choice("all", "hidden", "none")
    """Which layers of the projector have batch norm."""
    output_affine: bool = False
    """Give the output's batch norm scale and offset."""
    tail: str = choice("none", "l2", "l2_bn")
    """What follows the projector. l2: a normalization; l2_bn: batch norm after one."""
    predictor: str = choice("mlp", "two_fc", "one_fc", "one_fc_tanh", "bias", "none")
    """h. none: the identity."""
    predictor_bn: str = choice("hidden", "none", "all")
    """Which layers of mlp have batch norm."""
    train_predictor: bool = True
    """Off, h stays as it starts."""
    arrangement: str = choice("predict", "mirror", "both", "inverse")
    """Where h stands. predict: before what learns; mirror: before the target; inverse: undone again."""
    target: str = choice("latest", "mean", "moving_average", "cached")
    """latest: the output of now; mean: over further views; moving_average: of an image's outputs; cached: by the
    network before a number of steps."""
    stop_gradient: bool = True
    """Make the target a constant (target=latest only; the others are constants)."""
    momentum: float = number(0.8, least=0, most=1)
    """m of target=moving_average."""
    alternate: int = number(1, least=0)
    """k of target=cached: steps with one and the same network for the targets; 0 for an epoch's."""
    mean_of: int = number(10, least=2)
    """Views of an image for target=mean: the first is compared with the mean of the others."""
    symmetry: str = choice("symmetric", "asymmetric", "asymmetric_2x")
    """asymmetric_2x: two pairs of views an image, each compared one way."""
    similarity: str = choice("cosine", "cross_entropy", "mse", "infonce", "triplet", "self")
    """self: of a view with its own output."""
    temperature: float = number(0.2, above=0)
    """tau of infonce."""
    remove: list[str] = field(default_factory=list)
    """Parts of the extra gradient to leave out: o_e, its center, and r_e, its residual."""
    collapse_from: int = number(0, least=0)
    """Epochs after which h goes and the target is no constant, which collapses; 0 for never."""
    decorrelate_from: int = number(0, least=0)
    """Epochs after which de-correlation is the only loss; 0 for never."""

    def check_consistency(self) -> None:
        """Refuse parts that do not fit each other, so that no setting is silently without effect."""
        if set(self.remove) - set(REMOVABLE):
            raise UserError(f"method.remove={self.remove}: may name {' and '.join(REMOVABLE)}")
        if self.remove and self.similarity not in ("cosine", "infonce", "triplet", "self"):
            raise UserError(f"method.remove: no components are known of method.similarity={self.similarity}")
        if self.similarity == "cosine" and self.remove and (self.arrangement != "predict" or self.target != "latest"):
            raise UserError("method.remove: of cosine it needs method.arrangement=predict and method.target=latest")
        if self.similarity in ("triplet", "self") and self.predictor != "none":
            raise UserError(f"method.similarity={self.similarity}: has no predictor; add method.predictor=none")
        if not self.stop_gradient and (self.target != "latest" or self.remove):
            raise UserError("method.stop_gradient=false: needs method.target=latest and nothing in method.remove")
        if self.target == "mean" and self.symmetry != "asymmetric":
            raise UserError("method.target=mean: the first view alone learns; add method.symmetry=asymmetric")
        if self.arrangement == "inverse" and (self.symmetry != "symmetric" or self.target != "latest"):
            raise UserError("method.arrangement=inverse: needs method.symmetry=symmetric and method.target=latest")
