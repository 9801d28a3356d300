#!/usr/bin/env bash
# Installs what a build, the tests or the comparison need and is missing: setup.sh build | test | compare. Quick when
# nothing is missing.
set -euo pipefail
# Servers are in here, which not every user's PATH has.
PATH="$PATH:/usr/sbin:/sbin"

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
  # Let's Encrypt's test authority, and a name server that takes dynamic updates for its dns-01 challenges.
  need pebble pebble
  need pebble-challtestsrv pebble
  need knotd knot
  need knsupdate knot-dnsutils
  # Scanners of our TLS.
  need openssl openssl
  need sslscan sslscan
  need testssl testssl.sh
  # For the test that lets the wall clock jump; a library, not a command.
  compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
fi
if [ "${1:-build}" = compare ]; then
  need nginx nginx
  need haproxy haproxy
  need taskset util-linux
  need setpriv util-linux
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

# Debian starts a server when it installs one, on its well-known port. We only want the program, so say no for so long,
# unless the machine has its own say already; what is installed here is not started at boot either.
policy=/usr/sbin/policy-rc.d
if [[ " ${missing[*]} " =~ \ (nginx|haproxy|knot)\  ]] && [ ! -e "$policy" ]; then
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi

echo "setup: installing ${missing[*]}"
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends)
# The first try works where the package lists are there; else they are fetched.
if ! "${install[@]}" "${missing[@]}" >/dev/null 2>&1; then
  "${as_root[@]}" apt-get update -qq
  "${install[@]}" "${missing[@]}" >/dev/null
fi

if [ -d /run/systemd/system ]; then
  for server in nginx haproxy knot; do
    if [[ " ${missing[*]} " == *" $server "* ]]; then
      "${as_root[@]}" systemctl disable --quiet "$server"
    fi
  done
fi
