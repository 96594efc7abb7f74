"""Every row and image looked at once, then placed in a split.

In: a `Table` and its `Archive`. Out: per row why it cannot be used, which rows show one picture, and its split.
Read `rows` first.
"""
