"""`python -m pretrain.shard data=… data.root=DIR output=DIR2`: a data set as a few large files for slow disks.

Writes WebDataset shards, `DIR2/<split>/<split>-000000.tar`, that `data=webdataset data.root=DIR2` reads. Image files go
in byte for byte, in one random order for all shards, so that a reader from the first byte to the last meets every class
early. A shard is whole or absent, and `<shard>.sha256` (as sha256sum writes it) comes after it: a run that was killed
hashes the shards that it finds and writes those that are missing or damaged. `DIR2/index.json` comes last.
"""

from pretrain.shard.write_webdataset import ShardConfig, write_shards
from runs.app import hydra_app

main = hydra_app("pretrain", "config_shard", ShardConfig, write_shards)

if __name__ == "__main__":
    main()
