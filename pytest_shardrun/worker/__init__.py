"""What runs inside a shard: the standard library and pytest only."""
