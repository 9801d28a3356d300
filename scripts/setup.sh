#!/usr/bin/env bash
# Installs what a build or the tests need and is missing: setup.sh build | test. Quick when nothing is missing.
set -euo pipefail

missing=()
need() { # need COMMAND PACKAGE
  command -v "$1" >/dev/null || missing+=("$2")
}

# cmake builds zlib-ng, which Pingora compresses with; the compiler builds that and ring.
need cc build-essential
need cmake cmake
if [ "${1:-build}" = test ]; then
  need curl curl
  need h2load nghttp2-client
  need nghttp nghttp2-client
  # For the test that lets the wall clock jump; a library, not a command.
  compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
fi

if ! command -v cargo >/dev/null; then
  echo "setup: cargo is missing: install Rust (rust-toolchain.toml names the version)" >&2
  exit 1
fi
[ ${#missing[@]} -eq 0 ] && exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ! command -v apt-get >/dev/null; then
  echo "setup: missing: ${missing[*]} (Debian's names); there is no apt-get here, so install them yourself" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: missing: ${missing[*]}; neither root nor sudo here: run apt-get install ${missing[*]} as root" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "setup: installing ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)
# The first try works where the package lists are there; else they are fetched.
if ! "${install[@]}" "${missing[@]}" >/dev/null 2>&1; then
  "${as_root[@]}" apt-get update -qq
  "${install[@]}" "${missing[@]}" >/dev/null
fi
