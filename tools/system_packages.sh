#!/usr/bin/env bash
# system_packages.sh PACKAGE...   Installs the Debian packages that are missing, and starts none of their services.
set -euo pipefail

missing=()
for package in "$@"; do
  case "$package" in
    redis-server | prometheus | chromium) command -v "$package" >/dev/null || missing+=("$package") ;;
    *) dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "error: ${missing[*]} missing; as root: apt-get install ${missing[*]}" >&2; exit 1; }
  root=(sudo)
fi
command -v apt-get >/dev/null || { echo "error: install these with your package manager: ${missing[*]}" >&2; exit 1; }

echo "[setup] Debian packages: ${missing[*]}"
# Exit status 101 of policy-rc.d keeps a package from starting its daemon: Slipway runs its own, per project.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
  "${root[@]}" chmod +x "$policy"
  trap '"${root[@]}" rm -f "$policy"' EXIT
fi
log=$(mktemp)
install() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
install || { "${root[@]}" apt-get update -qq >>"$log" 2>&1 && install; } || { tail -n 20 "$log" >&2; exit 1; }
rm -f "$log"
