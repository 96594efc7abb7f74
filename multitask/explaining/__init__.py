"""Why a model answers as it does: where it is worse, what it takes for what, where it looked.

In: labels and scores of rows, their pictures, and the network. Out: a table of slices, sentences, and pictures.
Read `slices` first.
"""
