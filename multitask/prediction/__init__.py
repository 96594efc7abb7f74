"""Answers for image files, by whatever predicts.

In: a `Predictor` (trained network, SavedModel, server), ids, an `Archive`. Out: scores, and predictions.parquet.
Read `protocol` first.
"""
