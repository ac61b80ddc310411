"""The parts that `method=siamese` is composed of: one file a part, one choice a setting.

| file | the question | setting |
| --- | --- | --- |
| `heads.py` | what f ends in, and what h is | `projector_bn`, `predictor_bn`, `output_affine`, `tail`, `predictor` |
| `symmetry.py` | which views are compared | `symmetry` |
| `target.py` | with what: the latest output, a mean, a memory, a cache | `target` |
| `arrangement.py` | on which side the predictor stands | `arrangement` |
| `similarity.py` | by which measure | `similarity` |
| `gradient.py` | and which part of the gradient is left | `remove` |

Two papers' experiments are points of that space: Chen, He, Exploring Simple Siamese Representation Learning, CVPR 2021
("the first paper"), and Zhang et al., How Does SimSiam Avoid Collapse Without Negative Samples?, ICLR 2022 ("the
second"). `pretrain/variant` names them.
"""
