#!/usr/bin/env bash
# Brings what `cargo bench --bench api` measures beside our own figures: etcd, from Debian's
# packages (needs root). Nothing starts at boot: the driver starts it on loopback.
set -euo pipefail

if command -v etcd >/dev/null; then
    etcd --version | head -1
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "etcd is needed: install it (Debian, as root: apt-get install etcd-server)" >&2
    exit 1
fi
# Else the package's own service would run beside the measurements.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -q
apt-get install -y -q --no-install-recommends etcd-server
etcd --version | head -1
