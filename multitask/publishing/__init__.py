"""From a finished run to a version that servers load.

In: a `Run`. Out: a SavedModel that is proven to answer like the trained network, and the gate in front of serving.
Read `exporting` first, then `gate`.
"""
