"""Readers, a file per data set: where its files lie, what its labels mean, which mistakes its users meet."""
