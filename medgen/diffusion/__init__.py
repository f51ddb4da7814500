"Strategies, modes, networks, optimisers, samplers, and the trainer with its checkpoints and report."
