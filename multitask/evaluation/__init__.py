"""Scores and labels to figures.

In: scores, labels and groups of rows. Out: metrics with intervals and baselines, thresholds, plots, report.html.
Read `tasks` first.
"""
