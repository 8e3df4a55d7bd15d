#!/bin/bash
# Run the jobs of slurm/ under a real SLURM: two nodes of one CPU on this machine, on loopback, without cgroups.
#
#   bench/slurm.sh FOLDER    as root; about 15 minutes on two free cores; FOLDER/transcript.txt is the transcript in docs/cluster.md
#
# Needs .venv in this checkout, or VENV, and Debian's packages slurmctld slurmd slurm-client munge.
# FOLDER has the files of the daemons and a clone of HEAD. The daemons end with the script.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
venv=$(realpath "${VENV:-$checkout/.venv}")
[ $# -eq 1 ] && [ ! -e "$1" ] || { echo "usage: bench/slurm.sh FOLDER, a path that does not exist" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "error: the daemons of SLURM start as root only" >&2; exit 1; }
for program in munged slurmctld slurmd sbatch "$venv/bin/dvc"; do
    command -v "$program" >/dev/null ||
        { echo "error: $program not found: apt install slurmctld slurmd slurm-client munge; make test" >&2; exit 1; }
done
mkdir -p "$1"/{state,log}
mkdir -m 711 "$1/munge"
folder=$(cd "$1" && pwd)
host=$(hostname -s)

# --- Daemons ---------------------------------------------------------------------------------------------

cat >"$folder/slurm.conf" <<END
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=6917
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job starts after the lifetime of its credential, by default 120 s
AuthInfo=socket=$folder/munge/socket,cred_expire=15
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd-%n
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=1
SlurmdParameters=config_overrides
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[6918-6919] CPUs=1 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
END
export SLURM_CONF="$folder/slurm.conf" MASTER_ADDR=127.0.0.1  # the names of the nodes have no address
export OMP_NUM_THREADS=1

daemons=()
start() {
    nice "$@" >>"$folder/log/stdout" 2>&1 &
    daemons+=($!)
    sleep 1
}
stop() {
    squeue --noheader --format=%i 2>/dev/null | xargs --no-run-if-empty scancel --full
    for _ in {1..40}; do [ -n "$(squeue --noheader 2>/dev/null)" ] || break; sleep 1; done
    kill "${daemons[@]}" 2>/dev/null || true
    wait
}
trap stop EXIT
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
start munged --foreground --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
start slurmctld -D
start slurmd -D -N node1
start slurmd -D -N node2

set_param() {  # key=value ...
    .venv/bin/python - "$@" <<'END'
import sys
from pathlib import Path

from ruamel.yaml import YAML

yaml, path = YAML(), Path("params.yaml")
yaml.width = 120
params = yaml.load(path)
for key, value in (word.split("=") for word in sys.argv[1:]):
    *sections, name = key.split(".")
    section = params
    for part in sections:
        section = section[part]
    section[name] = yaml.load(value)
yaml.dump(params, path)
END
}

# --- Transcript ------------------------------------------------------------------------------------------

clean() { sed -u "s#$folder/clone/##g; s#$folder#/shared#g; s#$venv#.venv#g; s#$host#login#g"; }
note() { printf '\n# %s\n' "$*" | tee -a "$folder/transcript.txt"; }
show() {
    { echo "\$ $*"; "$@" 2>&1; } | clean | tee -a "$folder/transcript.txt"
}
submit() {  # options of sbatch, script and its arguments; sets `job`
    job=$(sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0 "$@")
    echo "\$ sbatch $*   # job $job" | tee -a "$folder/transcript.txt"
}
state() { scontrol show job "$job" | grep -o 'JobState=[A-Z_]*' | cut -d= -f2; }
output() { tr '\r' '\n' 2>/dev/null <"$(echo slurm/*-"$job".out)"; }
await() {  # seconds, condition
    local until=$((SECONDS + $1))
    shift
    while ! "$@"; do
        ((SECONDS < until)) || { echo "error: timed out: $*; see $folder/clone/slurm" >&2; exit 1; }
        sleep 1
    done
}
trains() { output | grep -E "^$1: +[0-9]+%.* [1-9][0-9]+/" >/dev/null; }
predicts() { compgen -G ".resume/predict-*/*/*.npz" >/dev/null; }
ended() { [[ $(state) =~ COMPLETED|FAILED|CANCELLED|TIMEOUT ]]; }
requeued() { scontrol show job "$job" | grep -q 'Restarts=[1-9]'; }
report() {  # what ran, by the output of the job, and the record of SLURM
    output | grep -E '^(Running stage|Stage .* is cached|\w+: (stopped|resumed)|\w+ \w+: [0-9]+ of [0-9]+ batches|srun:|slurmstepd|error:|ERROR:|usage:|params.yaml is valid|Data and pipelines)' |
        clean | tee -a "$folder/transcript.txt" || true
    show squeue --job "$job" --states=all --format='%i %j %T %M %N'
    scontrol show job "$job" | grep -oE '(Restarts|ExitCode)=\S+' | xargs | tee -a "$folder/transcript.txt"
}

# --- Jobs ------------------------------------------------------------------------------------------------

git clone --quiet "$checkout" "$folder/clone"
cd "$folder/clone"
ln -s "$venv" .venv
.venv/bin/python -m vdp recipe smoke >/dev/null
set_param "launcher=srun python" engine.devices=auto engine.num_nodes=2 engine.save_steps=20 train_motion.steps=200 \
    simulate.test=16 predict.steps=20

note "Two nodes of one CPU"
show sinfo --Node --long

note "The pipeline on both nodes; USR1 as before the time limit, while train_motion runs"
submit slurm/train.sbatch
await 1800 trains train_motion
show scancel --batch --signal=USR1 "$job"
await 120 requeued
await 1800 ended
report

note "The stopped training again, without a stop: the same bytes"
cp dvc.lock ../before.lock
submit slurm/stage.sbatch --force train_motion
await 1800 ended
report
show cmp dvc.lock ../before.lock && echo "dvc.lock is unchanged" | tee -a "$folder/transcript.txt"

note "A stage without training; USR1 while it predicts: it continues at the batches that it lacks"
submit slurm/stage.sbatch --force predict
await 600 predicts
show scancel --batch --signal=USR1 "$job"
await 120 requeued
await 900 ended
report
show cmp dvc.lock ../before.lock && echo "dvc.lock is unchanged" | tee -a "$folder/transcript.txt"

note "Two stages at once, of one node each, in one checkout: engine.num_nodes is that of the machine"
set_param engine.num_nodes=1
submit --nodes=1 slurm/stage.sbatch --force track_objects
first=$job
submit --nodes=1 slurm/stage.sbatch --force encode_latents
await 900 ended
report
job=$first
await 900 ended
report

set_param engine.num_nodes=2

note "A node fails; the next stage waits for this one"
set_param train_denoiser.steps=200
submit slurm/stage.sbatch train_denoiser
training=$job
submit --dependency="afterok:$training" slurm/stage.sbatch predict
predict=$job job=$training
await 600 trains train_denoiser
show scontrol update NodeName=node2 State=DOWN Reason=test
sleep 10
show squeue --format='%i %j %T %r'
show scontrol update NodeName=node2 State=RESUME
await 1800 ended
report
job=$predict
await 900 ended
report

note "One stage, longer than its time limit"
set_param train_motion.steps=1500
submit --time=3 --signal=B:USR1@60 slurm/stage.sbatch train_motion
await 2400 ended
report
