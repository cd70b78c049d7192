"""What to look at once there is a posterior."""

from dkp.diagnostics.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
