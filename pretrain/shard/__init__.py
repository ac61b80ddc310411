"""WebDataset shards of a data set: `python -m pretrain.shard`, the writer in `write_webdataset.py`."""
