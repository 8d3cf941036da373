#!/usr/bin/env bash
# Makes the root file system of the image in a folder: the binary, the libraries it names, and what its libraries read.
# usage: rootfs.sh BINARY FOLDER [SBOM]
# LIBRARIES: folders with libraries of the binary's architecture, colon-separated; this machine's if unset.
set -euo pipefail
binary=$1 root=$2 sbom=${3:-}
[ -f "$binary" ] || { echo "rootfs.sh: there is no binary at $binary" >&2; exit 1; }

case $(readelf -h "$binary" | sed -n 's/.*Machine: *//p') in
  *X86-64) triple=x86_64-linux-gnu ;;
  *AArch64) triple=aarch64-linux-gnu ;;
  *) echo "rootfs.sh: $binary is for neither x86-64 nor arm64" >&2; exit 1 ;;
esac
objcopy=$(command -v "$triple-objcopy" || echo objcopy)
IFS=: read -ra folders <<< "${LIBRARIES:-/lib/$triple:/usr/lib/$triple:/usr/$triple/lib:/lib64:/lib}"

rm -rf "$root"
mkdir -p "$root"/{etc/ssl/certs,usr/local/bin,usr/share/doc/warren,lib64,proc,sys,dev,run,tmp,"lib/$triple"}
# Of the binary's debug information the names of functions stay: crash reports and profiles need them.
"$objcopy" --strip-debug "$binary" "$root/usr/local/bin/warren"
chmod 755 "$root/usr/local/bin/warren"
ln -s warren "$root/usr/local/bin/ztunnel"

# A library goes where the loader looks for it; the loader itself, to the path that the binary has.
find_library() {
  local folder
  for folder in "${folders[@]}"; do
    [ ! -e "$folder/$1" ] || { echo "$folder/$1"; return; }
  done
  echo "rootfs.sh: $1 is in none of ${folders[*]}" >&2; return 1
}
put_libraries() {
  local name path
  while read -r name; do
    case $name in ld-linux-*) continue ;; esac
    [ ! -e "$root/lib/$triple/$name" ] || continue
    path=$(find_library "$name")
    install -m 644 "$path" "$root/lib/$triple/$name"
    put_libraries "$path"
  done < <(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
}
put_libraries "$binary"
loader=$(readelf -l "$binary" | sed -n 's/.*program interpreter: \(.*\)\]/\1/p')
[ -z "$loader" ] || install -D -m 755 "$(find_library "${loader##*/}")" "$root$loader"

printf '%s\n' 'root:x:0:0:root:/:/nologin' 'istio-proxy:x:1337:1337::/:/nologin' > "$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'istio-proxy:x:1337:' > "$root/etc/group"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
# The public roots, for collectors by https.
if [ -e /etc/ssl/certs/ca-certificates.crt ]; then
  install -m 644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
fi
[ -z "$sbom" ] || install -m 644 "$sbom" "$root/usr/share/doc/warren/sbom.cdx.json"
chmod 1777 "$root/tmp"
mkdir "$root/var" && ln -s /run "$root/var/run"
# One date for all files: the same binary makes the same image.
find "$root" -exec touch -h -d "@${SOURCE_DATE_EPOCH:-0}" {} +
