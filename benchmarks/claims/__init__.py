"""The claims of the papers on finite, infinite and bottlenecked networks, computed again.

A claim is a function that returns a :class:`~benchmarks.claims.finding.Finding`, and one row of
``benchmarks.claims.run.CLAIMS``.
"""
