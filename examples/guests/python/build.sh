#!/bin/sh
# Builds the Python sample into $OUT (default: ../out/built): python-http-p2.wasm, 18 MB with the
# interpreter. Needs python3 with pip, which fetches the pinned componentize-py once into $TOOLS
# (../out/python).
set -eu
VERSION=0.25.1
cd "$(dirname "$0")"
OUT=${OUT:-../out/built}
TOOLS=${TOOLS:-../out/python}
mkdir -p "$OUT" "$TOOLS"
if ! [ -d "$TOOLS/componentize_py-$VERSION.dist-info" ]; then
  python3 -m pip install --quiet --no-warn-script-location --target "$TOOLS" --upgrade \
    "componentize-py==$VERSION"
fi
wit=$(mktemp -d)
trap 'rm -rf "$wit"' EXIT
cp wit/world.wit "$wit/"
cp -r ../c/wit/deps "$wit/deps"
PYTHONPATH=$TOOLS "$TOOLS/bin/componentize-py" -q -d "$wit" -w http componentize app \
  -o "$OUT/python-http-p2.wasm"
