"""The models to start from, in one place: the command line, the benchmarks and the examples use these."""

from dkp import kernels, likelihoods
from dkp._spec import learn
from dkp.bottlenecks import InverseWishart
from dkp.model import DeepKernelProcess

__all__ = ["ard_gaussian_process", "default_model"]


def default_model() -> DeepKernelProcess:
    """A deep inverse Wishart process with one bottleneck between two squared-exponential kernels, and Gaussian noise.

    The learned concentration starts near the deterministic network.
    """
    return DeepKernelProcess(
        layers=[
            kernels.Linear(ard=True),
            kernels.SquaredExponential(),
            InverseWishart(),
            kernels.SquaredExponential(variance=learn(1.0)),
        ],
        likelihood=likelihoods.Gaussian(),
    )


def ard_gaussian_process() -> DeepKernelProcess:
    """The baseline: a Gaussian process with a squared-exponential kernel, one length-scale a feature, Gaussian
    noise."""
    return DeepKernelProcess(
        layers=[kernels.Linear(ard=True), kernels.SquaredExponential(variance=learn(1.0))],
        likelihood=likelihoods.Gaussian(),
    )
