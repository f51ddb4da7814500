"From checkpoints to a synthetic dataset: masks that keep the rules, then images for them."
