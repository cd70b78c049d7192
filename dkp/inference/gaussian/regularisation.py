"""Choosing the regularisation by leave-one-out prediction.

It costs neither data nor decompositions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dkp.posterior.protocol import LinearPredictor

__all__ = ["check_linear_predictor", "tune_diag_reg"]


def tune_diag_reg(posterior: Any, diag_regs: Sequence[float]) -> Any:
    """The posterior with the regularisation that predicts best, each point from all the others.

    It has the least squared error in leave-one-out prediction.

    Args:
        posterior: of ``dkp.condition``, ``dkp.gradient_flow`` or ``dkp.fit_augmented``.
        diag_regs: what to choose from.

    Raises:
        ValueError: for another posterior, an empty list, or negative numbers.

    Source: Allen 1974, *Technometrics* 16(1), the PRESS statistic.

    Examples:
        >>> import dkp
        >>> model = dkp.DeepKernelProcess(
        ...     layers=[dkp.kernels.SquaredExponential(1.0, 1.0)],
        ...     likelihood=dkp.likelihoods.Gaussian(0.1),
        ... )
        >>> data = dkp.Dataset.from_arrays([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])
        >>> print(dkp.tune_diag_reg(dkp.condition(model, data), [0.01, 1.0]).diag_reg)
        1.0
    """
    check_linear_predictor(posterior, diag_regs)
    targets = np.asarray(posterior.data.y, float)
    errors = [np.mean((posterior.leave_one_out_mean(value) - targets) ** 2) for value in diag_regs]
    return posterior.with_diag_reg(diag_regs[int(np.argmin(errors))])


def check_linear_predictor(posterior: Any, diag_regs: Sequence[float] | None) -> None:
    """Raise ValueError unless the posterior predicts its own data one by one.

    There must be something to choose from, too.
    """
    if not isinstance(posterior, LinearPredictor):
        raise ValueError(
            "Expected a posterior of dkp.condition, dkp.gradient_flow or dkp.fit_augmented. "
            f"Got {type(posterior).__name__}."
        )
    if diag_regs is not None and not len(diag_regs):
        raise ValueError("Expected diag_reg to hold at least one number. Got an empty list.")
