"""Answers over HTTP, as TF-Serving gives them.

In: a folder of published SavedModels. Out: its REST endpoints, uploads, a page, figures for Prometheus; and the client.
Read `server` first, then `rest`.
"""
