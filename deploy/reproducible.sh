#!/usr/bin/env bash
# Builds the program of the current commit twice, in two folders with names of different lengths, and compares the two to
# the byte. usage: reproducible.sh [PROFILE] [FILE]
#   nice -n 15 deploy/reproducible.sh dist warren     both builds; the program is left in the file warren
# STATIC=1 links the C library in, too. Both builds take as long as two builds from scratch.
set -euo pipefail
shopt -s inherit_errexit
profile=${1:-dist} out=${2:-}
top=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
target=$(rustc -vV | sed -n 's/^host: //p')
home=${CARGO_HOME:-$HOME/.cargo}
folder=$profile; [ "$profile" != dev ] || folder=debug

build() { # build FOLDER: prints the path of the program
  git clone -q "$top" "$1" && cd "$1" && git checkout -q "$(git -C "$top" rev-parse HEAD)"
  # No path of the machine and no date gets into the program. Build scripts and macros run here, and may have paths.
  local map="--remap-path-prefix=$1=. --remap-path-prefix=$home/registry/src=registry"
  local cmap="-ffile-prefix-map=$1=. -ffile-prefix-map=$home/registry/src=registry"
  [ -z "${STATIC:-}" ] || map="$map -C target-feature=+crt-static"
  env -u CARGO_TARGET_DIR SOURCE_DATE_EPOCH=0 CARGO_INCREMENTAL=0 RUSTFLAGS="$map" CFLAGS="$cmap" CXXFLAGS="$cmap" \
    cargo build -q --profile "$profile" --locked --no-default-features --target "$target" >&2
  echo "$1/target/$target/$folder/warren"
}

first=$work/first second=$work/a-second-folder-with-a-longer-name
program=$(build "$first"); cp "$program" "$work/one"; rm -rf "$first"
program=$(build "$second"); cp "$program" "$work/two"; rm -rf "$second"
sha256sum "$work/one" "$work/two" | sed "s|$work/||"
[ -z "$out" ] || cp "$work/one" "$out"
if ! cmp -s "$work/one" "$work/two"; then
  echo "the two builds differ in $(cmp -l "$work/one" "$work/two" | wc -l) bytes" >&2
  grep -aob "$work" "$work/one" | head -5 >&2 || true
  exit 1
fi
echo "the two builds are the same, $(stat -c %s "$work/one") bytes"
