"""The deep kernel process: layers and a likelihood, the walk through them, and kernels of networks
without bottlenecks."""

from dkp.model.process import DeepKernelProcess

__all__ = ["DeepKernelProcess"]
