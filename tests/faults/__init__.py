"""Runs in which real processes misbehave."""
