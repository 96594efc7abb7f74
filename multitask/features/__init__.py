"""From files to trainable rows: features of the frozen side, computed once per image and kept.

In: a `Config`. Out: `Prepared`: usable rows, their split, the network, and features of every row on disk.
Read `preparation` first.
"""
