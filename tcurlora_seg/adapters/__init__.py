"""Adapters: the trainable numbers of a stack of weights, one file per method."""
