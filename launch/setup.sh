# shellcheck shell=bash
# Sourced by local.sh and test.sh: goes to the repository root and makes .venv there ready.
#
#   needs="test"         set by the script that sources this: the extras of setup.cfg it cannot do without
#   EXTRAS=cuda,torch    from outside: more extras
#   PYTHON=python3.12    from outside: the Python to use
#
# Only POSIX shell and tools below: macOS has bash 3.2 and no GNU tools.
#
# In .venv: ready.NAME   written last, for each extra (and "base"): what was installed; see `stamp`
#           made-in      the folder it was made in, since a virtual environment cannot be moved
#           unfinished   there while it is filled, and still there if that was killed
#           setup.log    what the last set-up printed

fail() { # One sentence that says what to do.
  printf '%s\n' "$1" >&2
  exit 1
}

# Prints the version of the Python $1 if it runs and is new enough.
version_of() {
  "$1" -c 'import sys
if sys.version_info < (3, 11): sys.exit(1)
print(sys.version.split()[0])' 2>/dev/null
}

choose_python() {
  if [ -n "${PYTHON:-}" ]; then
    version_of "$PYTHON" >/dev/null ||
      fail "PYTHON=$PYTHON is not a Python 3.11 or newer that runs here: set PYTHON to one, or unset it."
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if version_of "$candidate" >/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  fail "No Python 3.11 or newer was found: install one (3.12, say), or set PYTHON to the path of one."
}

# uv is much faster, but reads none of pip's settings: where one of them says where packages come from, pip it is.
uses_uv() {
  command -v uv >/dev/null 2>&1 &&
    ! env | grep -Eq '^PIP_(CONFIG_FILE|INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|CERT|PROXY|CONSTRAINT)='
}

free_kb() { # The column before "12%"; counting from either end fails where names hold spaces.
  df -Pk . | awk 'NR > 1 { for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) print $(i - 1) }'
}

has_free_kb() {
  free=$(free_kb)
  [ "${free:-$1}" -ge "$1" ] # Where df says nothing, let it try.
}

# Is .venv a whole one, made here, and of the version of PYTHON if that is set?
venv_is_sound() {
  [ ! -e .venv/unfinished ] &&
    [ "$(cat .venv/made-in 2>/dev/null || pwd)" = "$PWD" ] &&
    .venv/bin/python -c 'import pip' 2>/dev/null &&
    version=$(version_of .venv/bin/python) &&
    { [ -z "${PYTHON:-}" ] || [ "$version" = "$(version_of "$PYTHON")" ]; }
}

# What a ready.NAME holds: any change to what is installed, or how, changes it.
stamp() {
  printf '%s %s\n' "$(version_of .venv/bin/python)" "$(cat setup.cfg pyproject.toml launch/setup.sh | cksum)"
}

extras_are_ready() {
  now=$(stamp)
  for extra in base $extras; do
    [ "$(cat ".venv/ready.$extra" 2>/dev/null)" = "$now" ] || return 1
  done
}

check_extras() {
  known=$(sed -n '/^\[options.extras_require\]/,$s/^\([a-z0-9_]*\) *=.*/\1/p' setup.cfg | tr '\n' ' ')
  for extra in $extras; do
    case " $known" in
      *" $extra "*) ;;
      *) fail "EXTRAS names \"$extra\", which setup.cfg does not have: choose from ${known% }." ;;
    esac
  done
}

logged() { # With no input, since a question would go unseen.
  "$@" >>"$log" 2>&1 </dev/null
}

in_log() {
  grep -Eiq "$1" "$log"
}

fail_from_log() {
  if in_log 'no space left|disk quota exceeded' || ! has_free_kb 50000; then
    fail "The disk filled up while packages were installed: free some space (or set TMPDIR to a folder with more) and start again."
  elif in_log 'connection (broken|refused|reset)|ConnectionError|failed to (establish|connect)|name resolution|name or service|dns error|error sending request|timed out|unreachable|ProxyError|SSLError|certificate'; then
    # pip and uv fetch everything before they install anything, so .venv is as good as it was.
    rm -f .venv/unfinished
    fail "The packages could not be fetched: check the network (or the proxy and index that pip or uv is set to) and start again; the details are in $log."
  elif in_log 'no matching distribution|could not find a version|no solution found|ResolutionImpossible'; then
    rm -f .venv/unfinished
    fail "No package index offers versions that fit setup.cfg, Python $(version_of "$python") and this machine: try another Python (PYTHON=python3.12) or check pip's or uv's index settings; the details are in $log."
  fi
  last=$(grep -Ei 'error: ' "$log" | grep -v 'subprocess-exited-with-error' | tail -n 1 | sed 's/^ *//')
  fail "The set-up of .venv failed; read $log, which says: ${last:-$(tail -n 1 "$log")}"
}

make_venv() {
  minor=$(version_of "$python" | cut -d . -f 1,2)
  uses_uv || "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make virtual environments: run \"sudo apt install python$minor-venv\" on Debian or Ubuntu, or set PYTHON to a complete Python, and start again."
  { rm -rf .venv && mkdir .venv; } 2>/dev/null || fail "$cannot_write"
  has_free_kb 1500000 ||
    fail "Only $(($(free_kb) / 1000)) MB of disk are free in $PWD and the packages take about 1500: free some space and start again."
  touch .venv/unfinished 2>/dev/null || fail "$cannot_write"
  if uses_uv; then
    logged uv venv --allow-existing --seed --python "$python" .venv || fail_from_log
  else
    logged "$python" -m venv .venv || fail_from_log
  fi
}

install_package() {
  # shellcheck disable=SC2086 # Unquoted, to make one space of several.
  list=$(echo $extras | tr ' _' ',-') # Older pips know an extra only by its name with hyphens.
  package=.${list:+[$list]}
  if uses_uv; then
    logged uv pip install --python .venv/bin/python --editable "$package" || fail_from_log
  else
    logged .venv/bin/python -m pip install --disable-pip-version-check --no-input --editable "$package" || fail_from_log
  fi
}

# Waits for other set-ups. The lock is on this file and belongs to file descriptor 9, so that this
# script and the pip that it starts hold it, and the system lets go of it when both are gone.
lock() {
  exec 9<launch/setup.sh
  "$python" -c 'import fcntl
try: fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
  print("Waiting for another set-up of .venv to end ...", flush=True)
  fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null || : # Some network folders have no locks: go on without.
}

set_up() {
  if venv_is_sound && extras_are_ready; then return; fi
  python=$(choose_python)
  check_extras
  lock
  if venv_is_sound && extras_are_ready; then return; fi # Another set-up has just made it.

  echo "Setting up .venv (about a minute) ..."
  venv_is_sound || make_venv
  { touch .venv/unfinished && pwd >.venv/made-in && echo >"$log"; } 2>/dev/null || fail "$cannot_write"
  install_package
  for extra in base $extras; do
    stamp >".venv/ready.$extra"
  done
  rm .venv/unfinished
}

# A relative PYTHON means the folder that the caller is in.
case "${PYTHON:-}" in
  /*) ;;
  */*) PYTHON=$PWD/$PYTHON ;;
esac
CDPATH='' cd -P -- "$(dirname -- "$0")/.." || exit
log=$PWD/.venv/setup.log
extras=$(echo "${needs:-} ${EXTRAS:-}" | tr ',' ' ')
cannot_write="Nothing can be written to .venv in $PWD: make that folder writable, or copy the repository to one that is."
set_up
exec 9<&- # What runs next, perhaps for days, must not hold the lock.
