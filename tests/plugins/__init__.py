"""The plugins that people use, compared with and without shards."""

import sys
from pathlib import Path

# What compares two runs lies beside this package, as the other tests find it.
sys.path.insert(0, str(Path(__file__).parents[1]))
