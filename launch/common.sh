# shellcheck shell=bash
# Sourced by the scripts that start training elsewhere: goes to the repository root, and takes --dry_run if
# it is the first flag. Then `run` prints each command, quoted for a shell, and starts none.
#
# --dry_run further on is a flag of crate_jax.main, which says what a run would take and trains nothing.

fail() { # One sentence that says what to do.
  printf '%s\n' "$1" >&2
  exit "${2:-1}"
}

quoted() {
  printf '%q' "$1"
  shift
  [ $# -eq 0 ] || printf ' %q' "$@"
}

run() {
  if [ -n "$dry_run" ]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# need_tool NAME WHERE: a dry run starts no tool and needs none.
need_tool() {
  [ -n "$dry_run" ] || command -v "$1" >/dev/null 2>&1 || fail "$1 is not on the PATH: $2."
}

# need_setting NAME WHAT: an environment variable.
need_setting() {
  eval "value=\${$1:-}"
  [ -n "$value" ] || fail "$1 is not set: export $1=... with $2." 2
}

# Of `[OPTIONS] -- FLAGS`, which a script was given, into the arrays `options` and `flags`.
# (bash 3.2 calls an empty array unset: hence ${options[@]+"${options[@]}"}.)
split_at_dashes() {
  options=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  [ $# -gt 1 ] || fail "Flags of crate_jax.main are missing: give them behind --, as in -- --config=configs/pile.py --workdir=runs/base." 2
  shift
  # shellcheck disable=SC2034 # The script that sources this reads it.
  flags=("$@")
}

dry_run=
if [ "${1:-}" = --dry_run ]; then
  dry_run=yes
  shift
fi
CDPATH='' cd -P -- "$(dirname -- "$0")/.." || exit
