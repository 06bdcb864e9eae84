"""Networks: building, loading pre-trained weights, adapter injection, merging."""
