"""Posteriors: what every engine returns, and predictions of any of them."""

from dkp.posterior.draw import Draw
from dkp.posterior.protocol import Posterior

__all__ = ["Draw", "Posterior"]
