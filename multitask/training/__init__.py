"""From prepared rows to a finished run.

In: a `Config`. Out: checkpoints, and a run folder with model, metrics and report.
Read `fitting` first, then `results`.
"""
