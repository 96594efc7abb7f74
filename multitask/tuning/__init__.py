"""Many trainings on the same stored features, and the best of them.

In: a `Config` with its search. Out: a study with every trial, plots, and the recipe of the best one.
Read `study` first, then `trainer`.
"""
