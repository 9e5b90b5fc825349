#!/usr/bin/env bash
# From nothing to a small CR-Net that has learnt some English: sets up whatever is missing, builds,
# prepares a corpus, trains for about five minutes on two cores and continues a prompt.
#
# Usage: scripts/quickstart.sh [--text PATH] [--prompt TEXT] [-- ARGUMENT…]
#   --text PATH    learn from this file or folder (text or JSONL, plain, .gz or .zst) in place of
#                  Perl's English documentation (the package perl-doc)
#   --prompt TEXT  what the trained model continues (default: "The function returns")
#   ARGUMENT       further arguments of `crnet train`, such as --set train.steps=50
#
# Everything is under runs/quickstart. Running it again re-uses the set-up, the build and the data
# (per PATH), goes on with a run that was interrupted, and trains a new run after a finished one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

readonly RECIPE=configs/recipes/quickstart.yaml
readonly VOCABULARY=8000
readonly CRNET=build/release/crnet
arguments=("$@")
text=
prompt='The function returns'
train_arguments=()
while (($#)); do
  case $1 in
    --help | -h) print_usage "$0" && exit ;;
    --text | --prompt)
      (($# > 1)) || die "[$1] expected a value, got none; see --help"
      if [[ $1 == --text ]]; then text=$2; else prompt=$2; fi
      shift
      ;;
    --) train_arguments=("${@:2}") && break ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done

# Its arguments as words of a shell, each after a space.
quoted() { printf ' %q' "$@"; }

on_interrupt() {
  echo
  say "Interrupted. The same command goes on from here:$(quoted "$0" "${arguments[@]}")"
  exit 130
}
trap on_interrupt INT TERM

# Perl's documentation as plain text, a paragraph a line. Left out: translations, and two files
# that repeat others.
make_perl_corpus() {
  local corpus=$1 pods
  [[ -d $corpus ]] && return
  mapfile -t pods < <(dpkg -L perl-doc | grep '/pod/perl[^/]*\.pod$' |
    grep -vE '/perl(cn|jp|ko|tw|toc|delta)\.pod$')
  say "Making text of ${#pods[@]} pages of Perl's documentation"
  rm -rf "$corpus.partial" && mkdir -p "$corpus.partial"
  # shellcheck disable=SC2016  # expanded by the inner shell
  printf '%s\0' "${pods[@]}" | xargs -0 -P "$(nproc)" -I{} sh -c \
    'pod2text --utf8 --errors=none --indent=0 --width=1000000 "$1" "$2/$(basename "$1" .pod).txt"' \
    sh {} "$corpus.partial"
  mv "$corpus.partial" "$corpus"
}

prepare_data() {
  local input=$1 data=$2
  if [[ -f $data/index.json ]]; then
    say "Data: $data is there"
    return
  fi
  say "Training a tokenizer of $VOCABULARY pieces and tokenizing $input"
  rm -rf "$data"  # without an index it was not finished
  # Short documents, so that a small text leaves some for validation.
  "$CRNET" prepare --input "$input" --train-tokenizer "$VOCABULARY" --output "$data" \
    --validation-fraction 0.05 --document-bytes 4096
}

# The first of RUN, RUN.2, RUN.3, … that is not finished.
unfinished_run() {
  local run=$1 number=1
  while [[ -e $run/.finished ]]; do
    number=$((number + 1))
    run=$1.$number
  done
  echo "$run"
}

newest_checkpoint() { find "$1/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | tail -1; }

train() {
  local run=$1 data=$2 resume=()
  if [[ -d $run ]]; then
    say "Going on with the interrupted run in $run"
    resume=(--resume auto)
  else
    say "Training in $run; Ctrl-C stops after a checkpoint"
  fi
  "$CRNET" train "$RECIPE" --set "data.path=$data" --set "train.run_dir=$run" "${resume[@]}" \
    "${train_arguments[@]}"
  [[ -f $run/train.log ]] || exit 0  # ARGUMENT was --help
  grep -q ' done after ' "$run/train.log" || on_interrupt  # it was told to stop, not this script
  touch "$run/.finished"
}

corpus=runs/quickstart/text
suffix=
if [[ -n $text ]]; then
  [[ -e $text ]] || die "[--text] expected a file or folder, got $text"
  corpus=$(realpath "$text")
  suffix=-$(basename "$corpus" | tr -c 'A-Za-z0-9\n' _)-$(cksum <<<"$corpus" | cut -d' ' -f1)
fi
cd "$CRNET_ROOT"
data=runs/quickstart/data$suffix
run=$(unfinished_run "runs/quickstart/run$suffix")

scripts/setup.sh
configure_tree release
build_tree release crnet_cli
if [[ -z $text ]]; then make_perl_corpus "$corpus"; fi
prepare_data "$corpus" "$data"
train "$run" "$data"
checkpoint=$(newest_checkpoint "$run")
say "Continuing: $prompt"
"$CRNET" generate "$checkpoint" --prompt "$prompt" --max-tokens 80 --seed 1
cat <<TEXT

==> Done
    run         $run (metrics.jsonl, resolved configuration)
    loss curve  $run/loss.svg
    checkpoint  $checkpoint
    try         $CRNET generate $checkpoint --prompt "The file"
                $CRNET eval $checkpoint --data $data
TEXT
