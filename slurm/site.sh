# All that differs between clusters, in one place. Every job sources this file; source it in your shell, too, before you
# submit (`. slurm/site.sh`): sbatch prefers the SBATCH_ variables to the #SBATCH lines of a script.

# Where to run and on whose account
# export SBATCH_PARTITION=GPUQ
# export SBATCH_ACCOUNT=share-ie-idi
# export SBATCH_CONSTRAINT="a100|h100"   # p100 v100 a100 h100, gpu16g gpu32g gpu40g gpu80g, sxm4

# Where Python is
# module purge
# module load Anaconda3/2024.02-1
# conda activate AIS4005
[ ! -f .venv/bin/activate ] || . .venv/bin/activate

# Where data are, and what is fetched or computed once
# export MEDGEN_DATA=/cluster/projects/brainmetshare
# export MEDGEN_WEIGHTS=/cluster/projects/medgen-weights
# export SCRATCH=/cluster/scratch/$USER   # slices are cached in $SCRATCH/medgen
# export MEDGEN_JOBS=jobs                 # folders of jobs; the logs stay in jobs/
# export MEDGEN_MAX_STARTS=20             # after so many starts a job gives up
