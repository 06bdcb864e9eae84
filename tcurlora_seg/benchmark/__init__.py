"""Benchmark of methods: step time, memory and inference time, as ratios measured in one run."""
