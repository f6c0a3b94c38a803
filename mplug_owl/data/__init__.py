"""Data for training: records of every format become conversations, conversations become rows of ids and labels.
Nothing here knows a model; what a prompt looks like is told by the processor.
"""
