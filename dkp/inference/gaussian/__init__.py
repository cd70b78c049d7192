"""Exact Gaussian processes, and ensembles of networks trained by gradient flow.

Their models have no bottleneck.
"""
