#!/usr/bin/env bash
# Where jobs stand, on one screen: state, progress, GPUs, the end of the log.
#   slurm/watch_job.sh NUMBER [NUMBER ...] [--every S] [--once] [--folder DIR]     (--help says more)
# slurm/site.sh says where Python and the folders of jobs are; it may name paths relative to the clone.
before=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." && { [ ! -f slurm/site.sh ] || . slurm/site.sh >&2; } && cd "$before" || exit 2
exec medgen-slurm watch "$@"
