"""Adapters: trainable updates of a stack of weights, one file per method."""
