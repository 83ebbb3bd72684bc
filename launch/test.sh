#!/usr/bin/env bash
# Runs the tests with pytest's flags: launch/test.sh [--slow] [-k name] [tests/test_x.py]
set -eu
# shellcheck disable=SC2034 # setup.sh reads it.
needs="test"
# shellcheck source=launch/setup.sh
. "$(dirname -- "$0")/setup.sh"

exec .venv/bin/python -m pytest "$@"
