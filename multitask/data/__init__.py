"""Tables and images as people have them.

In: a place (file, folder, archive, bucket, database). Out: `Table` (ids, labels) and `Archive` (id to bytes).
Read `tables` first, then `locations`; `sources` puts both together for the doors.
"""
