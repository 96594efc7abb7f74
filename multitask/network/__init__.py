"""Image bytes to scores, in TensorFlow.

In: a `ModelSpec`. Out: preprocessing, and a network cut into a frozen and a trainable side.
Read `model` first.
"""
