#!/usr/bin/env bash
# Kills a small training with SIGKILL at random moments, resumes it, and expects the weights, the
# optimizer's state and the losses of a run that was never interrupted, to the bit; in fp32 and bf16
# by turns. The tests do the same in three rounds.
#
# Usage: scripts/stress_resume.sh [ROUNDS] [CRNET]
#   ROUNDS  kills (default: 20)
#   CRNET   executable (default: build/release/crnet)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case ${1:-} in --help | -h) print_usage "$0" && exit ;; esac
rounds=${1:-20}
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "[ROUNDS] expected a number of at least 1, got $rounds"
crnet=${2:-$CRNET_ROOT/build/release/crnet}
[[ -x $crnet ]] || die "[CRNET] expected an executable, got $crnet; run scripts/build.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "Killing and resuming $rounds times"
CRNET_KILL_ROUNDS=$rounds python3 -B "$CRNET_ROOT/tests/cli/run.py" --crnet "$crnet" \
  --work "$work" kill_test Kill.test_a_killed_run_resumes_to_the_same_weights
