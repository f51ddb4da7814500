#!/usr/bin/env bash
# Where jobs stand, on one screen: queue, time, loss, speed, interruptions, the end of the log.
#   slurm/watch_job.sh NUMBER [NUMBER ...] [--every S] [--once] [--folder DIR]     (--help says more)
# Runs on the login node, with any Python from 3.10 on; slurm/site.sh says where Python and the folders of jobs are.
clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit 2
before=$PWD
cd "$clone" && { [ ! -f slurm/site.sh ] || . slurm/site.sh >&2; } # it may name paths relative to the clone
cd "$before" || exit 2
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "watch_job.sh: needs Python 3.10 or newer as python3; slurm/site.sh is the place to load it" >&2; exit 2; }
PYTHONPATH="$clone${PYTHONPATH:+:$PYTHONPATH}" exec python3 -m medgen.slurm_watch "$@"
