#!/usr/bin/env bash
# Makes the image of the tests' applications: `rustc` compiles app.rs, and no container engine is needed.
# usage: image.sh FILE.tar [NAME:TAG]     (NAME:TAG is k8s.local/warren-tests:1 unless given)
# Bring it onto every node: `ctr -n k8s.io images import FILE.tar`, `kind load image-archive`, `k3d image import`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1 name=${2:-k8s.local/warren-tests:1}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
rustc --edition 2024 -C opt-level=2 -C strip=debuginfo -o "$work/app" "$here/app.rs"
# The same layout as that of the proxy's image: the program is the entry point, /usr/local/bin/ztunnel.
"$here/../../deploy/image.sh" "$work/app" "$name" "$out"
