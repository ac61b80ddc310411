"""Did my weights load? `python examples/prove_weights.py CHECKPOINT`: one line in anyone's script."""

import sys

import torch
import torchvision

import converters

checkpoint = sys.argv[1]
model = torchvision.models.resnet50()
weights = converters.load_backbone(checkpoint).state_dict  # torchvision's names -> float32 tensors
model.load_state_dict({**model.state_dict(), **weights})
proof = converters.prove_loaded(checkpoint, model)  # true if the features of stem to res5 agree to 1e-5
assert proof, proof
torch.nn.init.zeros_(model.layer4[2].conv3.weight)  # a lost layer
print(proof, "\nwithout one layer:", converters.prove_loaded(checkpoint, model))
