"""The network: building it, loading its weights, putting adapters into it and merging them."""
