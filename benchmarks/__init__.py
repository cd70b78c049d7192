"""Benchmarks of dkp: quality on published data sets, and speed.

``python -m benchmarks run`` fills a directory with one JSON file a run, ``python -m benchmarks
report`` turns that directory into Markdown tables, and ``python -m benchmarks speed`` times one
optimiser step.
"""

__all__: list[str] = []
