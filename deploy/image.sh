#!/usr/bin/env bash
# Assembles the image without a container engine: an OCI image layout in a tar file, as deploy/Dockerfile makes it.
# usage: image.sh BINARY NAME:TAG FILE.tar [ISTIO_VERSION]
#   deploy/image.sh target/dist/warren registry.example.com/warren:0.1.0 warren.tar 1.30.3
# `ctr -n k8s.io images import FILE.tar` takes it, as do skopeo and crane. WARREN_SBOM names a file that goes into it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$1 name=$2 out=$3 istio_version=${4:-unknown}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$here/rootfs.sh" "$binary" "$work/root" "${WARREN_SBOM:-}"
case $(readelf -h "$binary" | sed -n 's/.*Machine: *//p') in *AArch64) arch=arm64 ;; *) arch=amd64 ;; esac

blobs=$work/oci/blobs/sha256; mkdir -p "$blobs"
store() { # store FILE: moves it to its digest's name, and prints "DIGEST SIZE"
  local digest size
  digest=$(sha256sum "$1" | cut -d' ' -f1); size=$(stat -c %s "$1")
  mv "$1" "$blobs/$digest"; echo "$digest $size"
}
tar -C "$work/root" --owner=0 --group=0 --numeric-owner --sort=name --format=gnu --mtime="@${SOURCE_DATE_EPOCH:-0}" -cf "$work/layer" .
read -r layer layer_size < <(store "$work/layer")
cat > "$work/config" <<JSON
{"architecture":"$arch","os":"linux","config":{"Entrypoint":["/usr/local/bin/ztunnel"],"Env":["PATH=/usr/local/bin","ISTIO_META_ISTIO_VERSION=$istio_version"],"WorkingDir":"/","StopSignal":"SIGTERM"},"rootfs":{"type":"layers","diff_ids":["sha256:$layer"]}}
JSON
read -r config config_size < <(store "$work/config")
cat > "$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:$layer","size":$layer_size}]}
JSON
read -r manifest manifest_size < <(store "$work/manifest")
echo '{"imageLayoutVersion":"1.0.0"}' > "$work/oci/oci-layout"
cat > "$work/oci/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"${name##*:}"},"platform":{"architecture":"$arch","os":"linux"}}]}
JSON
tar -C "$work/oci" --owner=0 --group=0 --numeric-owner --sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" -cf "$out" .
echo "$name sha256:$manifest, $((layer_size / 1024)) KiB, in $out"
