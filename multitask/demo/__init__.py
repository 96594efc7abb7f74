"""Photos drawn here, so that everything can be tried without any data.

In: a seed. Out: the demo dataset, and probe images of every format.
Read `sample` first.
"""
