"""A data set explained before it is trained on.

In: a `Config`. Out: report.html: what is broken, repeated, dark, rare; and labels that are probably wrong.
Read `survey` first.
"""
