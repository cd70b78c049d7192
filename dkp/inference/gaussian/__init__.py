"""Exact Gaussian processes, and ensembles of networks trained by gradient flow, where there is no
bottleneck."""
