"A synthetic dataset held against held-out and training patients, and what a reader may conclude."
