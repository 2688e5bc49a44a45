#!/bin/sh
# Rebuilds all sample guests, examples/guests/{rust,c} -> examples/guests/built. The same sources and
# tools give the same bytes, wherever the repository lies.
#
#   scripts/rebuild-guests.sh             build, and put the files into built/
#   scripts/rebuild-guests.sh --check     build, and compare with what is in built/
#   scripts/rebuild-guests.sh --install   first install the Debian packages that are missing (root)
#
# Besides those packages (Debian 12) it needs rustup's cargo and linkers. $WIT_BINDGEN may name a
# wit-bindgen of the version in examples/guests/c/build.sh, which is else installed under out/.
set -eu
usage() {
  sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
PACKAGES="rustc-web rust-web-src wasi-libc clang-14 libclang-rt-14-dev-wasm32"
# The largest sample has 295 kB. What grows beyond this has lost an option of its build.
MAX_BYTES=327680

check= install=
for option in "$@"; do
  case $option in
    --check) check=yes ;;
    --install) install=yes ;;
    *) usage ;;
  esac
done
cd "$(dirname "$0")/../examples/guests"

missing=
for package in $PACKAGES; do
  case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" in *"ok installed"*) ;; *)
    missing="$missing $package" ;; esac
done
if [ -n "$missing" ]; then
  command="apt-get install -y --no-install-recommends$missing"
  if [ -z "$install" ]; then
    echo "rebuild-guests: packages of Debian 12 are missing; run it with --install, or: $command" >&2
    exit 1
  fi
  $command
fi
if ! [ -x "$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin/wasm-component-ld" ]
then
  echo "rebuild-guests: the linkers of a rustup toolchain (1.95 or newer, x86_64) are missing" >&2
  exit 1
fi

rm -rf out/built
OUT=../out/built rust/build.sh
OUT=../out/built c/build.sh

failed=
fail() {
  echo "rebuild-guests: $*" >&2
  failed=yes
}
for file in out/built/*.wasm; do
  name=${file##*/}
  if grep -aqF -e "$PWD" -e "$HOME/" -e "${CARGO_HOME:-$HOME/.cargo}" "$file"; then
    fail "$name has paths of this machine in it"
  fi
  [ "$(wc -c <"$file")" -le $MAX_BYTES ] || fail "$name has more than $MAX_BYTES bytes"
  [ -z "$check" ] || cmp "$file" "built/$name" || fail "built/$name is not what its source gives"
done
for file in built/*.wasm; do
  [ -e "out/$file" ] || fail "$file has no source any more"
done
[ -z "$failed" ] || exit 1
[ -n "$check" ] || cp out/built/*.wasm built/
ls -l out/built
