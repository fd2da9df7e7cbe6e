"""What runs inside a shard."""
