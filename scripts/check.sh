#!/usr/bin/env bash
# Everything that is checked without running the edge. Ends at the first thing that is wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '== %s\n' "$*"; }

step shell scripts
for script in scripts/*.sh .ci/run; do
  bash -n "$script"
done

step formatting
cargo fmt --check

step lints
cargo clippy --locked --all-targets -- -D warnings

step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

if cargo deny --version >/dev/null 2>&1; then
  step licences, bans, sources
  cargo deny --locked check bans licenses sources
else
  step "licences, bans, sources: skipped, cargo-deny is not installed"
fi

step layers
cargo test --locked --quiet --test it layers::
