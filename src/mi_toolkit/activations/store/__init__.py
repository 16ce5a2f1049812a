"""Activations on disk: shards in safetensors, an index in Parquet, a manifest in JSON."""
