"""What the model sees and says today, held against what it saw and said of rows that did not train it.

In: a finished run, its profile, predictions or a prediction log. Out: monitor.json, monitor.html, monitor.prom.
Read `signals` first.
"""
