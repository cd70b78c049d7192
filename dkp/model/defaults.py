"""The models to start from, in one place.

The command line, the benchmarks and the examples use these.
"""

from dkp import kernels, likelihoods
from dkp._core.checks import positive_int
from dkp._core.description import learn
from dkp.bottlenecks.inverse_wishart import InverseWishart
from dkp.bottlenecks.wishart import Wishart
from dkp.kernels import Kernel
from dkp.model.process import DeepKernelProcess

__all__ = ["ard_gaussian_process", "deep_wishart_process", "default_model"]


def default_model(kernel: Kernel | None = None) -> DeepKernelProcess:
    """A deep inverse Wishart process with one bottleneck, and Gaussian noise.

    The bottleneck stands between two squared-exponential kernels.

    The learned concentration starts near the deterministic network.

    Args:
        kernel: of the outputs; a squared exponential where it is not given.

    Examples:
        >>> import dkp
        >>> print([type(layer).__name__ for layer in dkp.defaults.default_model().layers])
        ['Linear', 'SquaredExponential', 'InverseWishart', 'SquaredExponential']
    """
    return DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True),
            kernels.SquaredExponential(),
            InverseWishart(),
            kernels.SquaredExponential(variance=learn(1.0)) if kernel is None else kernel,
        ],
        likelihood=likelihoods.Gaussian(),
    )


def ard_gaussian_process(kernel: Kernel | None = None) -> DeepKernelProcess:
    """The baseline: a Gaussian process with one length-scale a feature and Gaussian noise.

    Args:
        kernel: a squared exponential where it is not given.

    Examples:
        >>> import dkp
        >>> print([type(layer).__name__ for layer in dkp.defaults.ard_gaussian_process().layers])
        ['Linear', 'SquaredExponential']
    """
    layers = [
        kernels.Linear(ard=True),
        kernels.SquaredExponential(variance=learn(1.0)) if kernel is None else kernel,
    ]
    return DeepKernelProcess(layers=layers, likelihood=likelihoods.Gaussian())


def deep_wishart_process(width: float | int, depth: int = 3) -> DeepKernelProcess:
    """Squared-exponential kernels with a Wishart bottleneck between any two, and Gaussian noise.

    It is the prior of a deep Gaussian process of `depth` layers with `width` units each.

    Layers start as nearly linear maps, with length-scales of 3 where the mean square of the
    features is about 1 and variances of 9, so that features change little from one to the next.

    Args:
        width: of all layers; infinity leaves the bottlenecks out.
        depth: number of kernels, at least 1.

    Raises:
        ValueError: for a width that :class:`~dkp.Wishart` does not take, or a depth below 1.

    Source: Ober & Aitchison 2021 (arXiv 2107.10125), section 5.

    Examples:
        >>> import dkp
        >>> print(len(dkp.defaults.deep_wishart_process(2, depth=3).layers))
        6
    """
    kernel = kernels.SquaredExponential(lengthscale=learn(3.0), variance=learn(9.0))
    bottleneck = Wishart(width=width)
    hidden = [kernel] if bottleneck.is_identity else [kernel, bottleneck]
    return DeepKernelProcess(
        layers=[kernels.Linear(ard=True), *(hidden * (positive_int("depth", depth) - 1)), kernel],
        likelihood=likelihoods.Gaussian(),
    )
