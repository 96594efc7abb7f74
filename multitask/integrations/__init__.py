"""Optional libraries, one room each, asked for by name; everything else works without them.

In: the epochs and the folder of a run. Out: the same where TensorBoard, MLflow or Weights & Biases show it.
Read `trackers` first.
"""
