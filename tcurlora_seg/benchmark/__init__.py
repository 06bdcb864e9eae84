"""Step time, memory and inference time of methods against each other, as ratios measured in one run."""
