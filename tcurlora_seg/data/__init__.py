"""Data sets, manifests, splits, preparation, augmentation, loaders and the simulator; nothing of models."""
