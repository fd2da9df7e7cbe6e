"""A pytest plugin; extended by hooks, not imported.

A worker imports this package before pytest is there to rewrite assertions: PYTEST_DONT_REWRITE
"""
