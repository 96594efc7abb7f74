"""Finished runs side by side.

In: run folders. Out: a table of their figures, what differs in their settings, paired differences, one HTML page.
Read `standings` first.
"""
