"""From a configuration to a finished run.

In: a `Config`. Out: features on disk, checkpoints, and a run folder with model, metrics and report.
Read `fitting` first, then `preparation`.
"""
