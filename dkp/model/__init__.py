"""The deep kernel process, the walk through its layers, and kernels of networks."""

from dkp.model.process import DeepKernelProcess

__all__ = ["DeepKernelProcess"]
