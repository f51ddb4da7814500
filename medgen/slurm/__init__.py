"Jobs on a cluster that survive, the check before them, their watcher, and sweeps."
