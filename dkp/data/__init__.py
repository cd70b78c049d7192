"""Data: sets as models see them, where they come from, how they are prepared."""

from dkp.data.dataset import Dataset
from dkp.data.standardization import Standardization

__all__ = ["Dataset", "Standardization"]
