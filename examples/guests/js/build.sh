#!/bin/sh
# Builds the JavaScript sample into $OUT (default: ../out/built): js-http-p3.wasm, 1.1 MB. Needs node
# 20 or newer with npm, which fetches the pinned componentize-qjs once into $TOOLS (../out/js).
# The WIT of WASI 0.3 comes out of the crate wasmtime-wasi-http, which cargo fetched for this project.
set -eu
VERSION=0.4.5
cd "$(dirname "$0")"
OUT=${OUT:-../out/built}
TOOLS=${TOOLS:-../out/js}
mkdir -p "$OUT" "$TOOLS"

program=$TOOLS/node_modules/.bin/componentize-qjs
if ! grep -qs "\"version\": \"$VERSION\"" "$TOOLS/node_modules/componentize-qjs/package.json"; then
  npm install --no-audit --no-fund --silent --prefix "$TOOLS" "componentize-qjs@$VERSION"
fi

wit=$(mktemp -d)
trap 'rm -rf "$wit"' EXIT
cp wit/world.wit "$wit/"
mkdir "$wit/deps"
crates=${CARGO_HOME:-$HOME/.cargo}/registry/src
cp "$crates"/*/wasmtime-wasi-http-48.*/src/p3/wit/deps/*.wit "$wit/deps/"
"$program" --opt-size -w "$wit" -n http -j http.js -o "$OUT/js-http-p3.wasm"
