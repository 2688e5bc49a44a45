#!/usr/bin/env bash
# Brings what the benchmarks measure beside our own figures: etcd, from Debian's packages (needs
# root; nothing starts at boot: the driver starts it on loopback), and the wasmtime program in our
# version of it, which cargo builds (a quarter of an hour) into target/tools.
set -euo pipefail
cd "$(dirname "$0")/.."

etcd() {
    if command -v etcd >/dev/null; then
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "etcd is needed: install it (Debian, as root: apt-get install etcd-server)" >&2
        exit 1
    fi
    # Else the package's own service would run beside the measurements.
    local policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -q
    apt-get install -y -q --no-install-recommends etcd-server
}

wasmtime() {
    # The default features that a server has a use for, so that its costs are those of the default.
    local version features=run,serve,config,cranelift,parallel-compilation,pooling-allocator,logging
    features+=,component-model-async,threads,gc,gc-drc,gc-null,backtrace,addr2line,demangle,coredump
    features+=,profiling,debug-builtins
    version=$(sed -n '/^name = "wasmtime"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    if [ -x target/tools/bin/wasmtime ]; then
        case $(target/tools/bin/wasmtime --version) in "wasmtime $version"*) return ;; esac
    fi
    cargo install wasmtime-cli --locked --version "$version" --root target/tools --target-dir target/tools/build \
        --no-default-features --features "$features"
    rm -rf target/tools/build
}

etcd
wasmtime
command etcd --version | head -1
echo "$(target/tools/bin/wasmtime --version) is target/tools/bin/wasmtime, where the benchmarks look for it"
