"""From raw text to token shards, and from shards to a deterministic stream of training samples."""
