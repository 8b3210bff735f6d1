#!/bin/sh
# Builds the container image with buildah, and runs it as platforms do. Needs root, buildah, util-linux and curl. Without a registry,
# it makes the base images from Debian's packages (debootstrap) and the installed Rust toolchain.
set -eu
cd "$(dirname "$0")/../.."

image=localhost/cloudflare-images-webhook:test
work=$(mktemp -d)
export BUILDAH_ISOLATION=chroot
container=""
service=""

clean() {
    [ -z "$service" ] || kill "$service" 2>/dev/null || true
    [ -z "$container" ] || buildah rm "$container" >/dev/null
    rm -rf "$work"
}
trap clean EXIT

fail() {
    echo "FAILED: $*" >&2
    [ ! -e "$work/log" ] || cat "$work/log" >&2
    exit 1
}

# Makes a base image that cannot be pulled. $1: its name, $2: "rust" to add the installed toolchain.
make_base() {
    if buildah inspect --type image "$1" >/dev/null 2>&1 || buildah pull "$1" >/dev/null 2>&1; then
        return
    fi
    echo "Making $1 from Debian's packages"
    root="${DEBIAN_ROOT:-$work/debian}"
    [ -d "$root/usr" ] || debootstrap --variant=minbase bookworm "$root" >"$work/debootstrap.log"
    made=$(buildah from scratch)
    buildah add --quiet "$made" "$root" / >/dev/null
    if [ "${2:-}" = rust ]; then
        toolchain=$(rustc --print sysroot)
        buildah add --quiet "$made" "$toolchain" /usr/local/rust >/dev/null
        buildah config --env PATH=/usr/local/rust/bin:/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            --env CARGO_HOME=/usr/local/cargo --env CARGO_HTTP_CAINFO=/etc/ssl/certs/ca-certificates.crt "$made"
        # The authorities of this machine, which may have a proxy.
        buildah add --quiet "$made" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ >/dev/null
    fi
    buildah commit --quiet "$made" "$1" >/dev/null
    buildah rm "$made" >/dev/null
}

make_base docker.io/library/debian:bookworm-slim
make_base docker.io/library/rust:1.95-slim-bookworm rust
echo "Building the image"
buildah bud --quiet --pull-never --layers --tag "$image" . >/dev/null
container=$(buildah from --pull-never "$image")
root=$(buildah mount "$container")
size=$(du --summarize --block-size=1M "$root" | cut -f1)
echo "The files of the image have $size MiB"
buildah config --user 0 "$container" >/dev/null

# The software bill of materials is in the program. It is compressed JSON.
objcopy --dump-section .dep-v0="$work/sbom" "$root/usr/local/bin/cloudflare-images-webhook" "$work/unused" || fail "no bill of materials"
python3 -c 'import json, sys, zlib
packages = json.loads(zlib.decompress(open(sys.argv[1], "rb").read()))["packages"]
names = {package["name"] for package in packages}
assert {"cloudflare-images-webhook", "sqlx", "rustls"} <= names, names
print("The bill of materials has", len(packages), "crates")' "$work/sbom"

# The default ports are free in a network of its own.
unshare --net --mount sh -eu tests/image/serve.sh "$container" "$root" "$work"
echo "The image works"
