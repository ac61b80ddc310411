"""Images in, a ResNet checkpoint out: SimSiam and its peers, watched and restartable; linear and kNN evaluation."""

from converters.light_imports import light_imports

# Before any module of ours: torchvision's own import takes four seconds more, which a mistyped key would wait for.
with light_imports():
    import torchvision as torchvision
