"""Faults: runs that are killed at random moments, and input that somebody damaged or made up.

``python -m benchmarks faults kills`` and ``inputs`` write ``results/faults/<name>.json``; ``fuzz``
runs atheris on the reader of files for as long as it is told.
"""
