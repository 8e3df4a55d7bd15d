# Sourced by the jobs of this folder, in the root of the checkout: environment, requeue, `run`.

# With another launcher, Fabric takes this shell for one of SLURM's tasks and waits for the others.
grep -Eq "^launcher: ['\"]?srun " params.yaml ||
    { echo "error: params.yaml: launcher: expected srun python in a SLURM job" >&2; exit 1; }
source .venv/bin/activate
export SLURM_KILL_BAD_EXIT=1  # a failed task ends its step; the others would wait for it
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"  # since SLURM 22.05 srun does not inherit it from sbatch

# Before the time limit: trainings save their state on TERM, and the requeued job resumes from it.
requeue() {
    scancel --signal=TERM "$SLURM_JOB_ID"  # signals the steps started by srun, not this shell
    timeout 60 tail --pid="$pipeline" --follow /dev/null  # until the stage has ended
    scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

# Check the params, run DVC and exit with its code. In the background: bash handles signals between commands.
run() {
    python -m vdp check --no-cost && dvc --wait-for-lock repro "$@" &
    pipeline=$!
    wait "$pipeline"
    exit
}
