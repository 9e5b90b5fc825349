#!/usr/bin/env bash
# Trains under a real Slurm: starts a cluster of this one machine in a folder of its own, and checks
# that srun's processes give the numbers of one process, that a batch script without srun is
# refused, and that scancel's signal leaves a checkpoint from which the run goes on.
#
# Usage: scripts/slurm_check.sh [CRNET]   (default: build/release/crnet; see scripts/build.sh)
#
# Needs root, and Debian's slurm-wlm and munge, which it installs where they are missing. Nothing of
# the system's own Slurm configuration is read or changed.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in --help | -h) print_usage "$0" && exit ;; esac
crnet=$(realpath "${1:-$CRNET_ROOT/build/release/crnet}")
[[ -x $crnet ]] || die "there is no $crnet; run scripts/build.sh"
((EUID == 0)) || die "Slurm's daemons want root"
if ! command -v slurmctld slurmd munged >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

folder=$(mktemp -d)
export SLURM_CONF=$folder/slurm.conf
stop_daemons() {
  local file
  for file in "$folder"/{slurmd,slurmctld,munged}.pid; do
    if [[ -s $file ]]; then kill "$(<"$file")" 2>/dev/null || true; fi
  done
}
finish() {
  local status=$?
  stop_daemons
  if ((status == 0)); then rm -rf "$folder"; else say "Failed; logs are in $folder"; fi
}
trap finish EXIT

write_configuration() {
  cat >"$SLURM_CONF" <<TEXT
ClusterName=check
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=17817
SlurmdPort=17818
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SelectType=select/cons_res
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=YES
TEXT
}

start_daemons() {
  mkdir -p "$folder"/{state,spool}
  chmod 755 "$folder"
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  slurmctld && slurmd
  local try
  for ((try = 0; try < 60; ++try)); do
    if [[ $(sinfo -h -o %t 2>/dev/null) == idle ]]; then return; fi
    sleep 0.5
  done
  die "the cluster did not come up"
}

# train NAME PREFIX… -- ARGUMENT…: the tests' small model, under a launcher
train() {
  local name=$1 prefix=()
  shift
  while [[ $1 != -- ]]; do prefix+=("$1") && shift; done
  shift
  "${prefix[@]}" "$crnet" train "$folder/work/fixture/recipe.json" --set "train.run_dir=$folder/$name" \
    "$@" >"$folder/$name.out" 2>&1
}

check_numbers() {
  say "srun -n 2 and -n 4 against one process"
  train one -- --set train.steps=50
  local count
  for count in 2 4; do
    train "srun-$count" srun --overcommit -n "$count" -- --set train.steps=50
    grep -o "started by .*" "$folder/srun-$count.out"
  done
  python3 "$CRNET_ROOT/scripts/compare_runs.py" --steps 50 --limit 1e-5 "one=$folder/one" \
    "srun-2=$folder/srun-2" "srun-4=$folder/srun-4" >"$folder/numbers"
  grep "^Greatest" "$folder/numbers"
}

check_refusal() {
  say "A batch script that forgot srun"
  if sbatch -W -n 2 -o "$folder/batch.out" --wrap "$crnet train $folder/work/fixture/recipe.json" \
    >/dev/null; then
    die "it was not refused"
  fi
  grep "^crnet: " "$folder/batch.out"
}

check_signal() {
  local signal
  for signal in TERM USR1; do
    say "scancel --signal=$signal, then the rest"
    sbatch -n 2 -J "stop-$signal" -o "$folder/$signal.out" --wrap "srun $crnet train \
      $folder/work/fixture/recipe.json --set train.steps=3000 --set train.run_dir=$folder/$signal" >/dev/null
    until [[ -s $folder/$signal/metrics.jsonl ]]; do sleep 0.1; done
    scancel --signal="$signal" --name="stop-$signal"
    while squeue -h -n "stop-$signal" | grep -q .; do sleep 0.2; done
    grep -o "stopped after step.*" "$folder/$signal.out"
    train "$signal" srun -n 2 -- --resume auto --set train.steps=3000 --set checkpoint.every=0
    grep -o "done after 3000 steps" "$folder/$signal.out"
  done
}

say "Starting a cluster in $folder"
write_configuration
start_daemons
python3 -B "$CRNET_ROOT/tests/cli/run.py" --crnet "$crnet" --work "$folder/work" --make-fixture
check_numbers
check_refusal
check_signal
say "Slurm $(sinfo --version | cut -d' ' -f2): all as expected"
