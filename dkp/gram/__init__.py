"""Gram matrices: the one thing that flows through a model."""

from dkp.gram.gram import Gram, Inputs

__all__ = ["Gram", "Inputs"]
