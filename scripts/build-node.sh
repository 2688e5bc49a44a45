#!/usr/bin/env bash
# Builds the small node program (no compiler, no control plane) as one would publish it, and tells its
# size. Takes what `cargo build` takes: --target, --target-dir.
set -euo pipefail
cd "$(dirname "$0")/.."

# Relocations as a bitmap: 2 MB less, and needs a glibc of 2.36 where it runs.
flags=(-C link-arg=-Wl,-z,pack-relative-relocs)
# What is the same code stands once. Only LLVM's linker can do it, which is Rust's own on x86-64.
if [ "$(uname -m)" = x86_64 ]; then flags+=(-C link-arg=-Wl,--icf=all); fi

built=$(cargo rustc --profile dist --no-default-features --features node --bin wasmfleet \
    --message-format json-render-diagnostics "$@" -- "${flags[@]}")
program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built")
echo "$program: $(stat -c %s "$program") bytes"
