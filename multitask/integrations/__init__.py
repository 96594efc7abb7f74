"""Optional libraries, one room each, asked for by name; everything else works without them.

In: a run's epochs and folder. Out: the same in TensorBoard, MLflow, Weights & Biases; by Ray, work on many machines.
Read `trackers` first.
"""
