#!/usr/bin/env bash
# All tests: test.sh [--slow] [arguments of the test runner]. Documentation examples first, so that the summary ends it.
set -euo pipefail
cd "$(dirname "$0")/.."

ignored=()
if [ "${1:-}" = --slow ]; then
  shift
  ignored=(--slow)
elif [ $# -eq 0 ]; then
  cargo test --locked --doc --quiet
fi

if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --locked --no-tests pass ${ignored[@]:+--run-ignored only} "$@"
else
  exec cargo test --locked --lib --bins --tests --no-fail-fast -- ${ignored[@]:+--ignored} "$@"
fi
