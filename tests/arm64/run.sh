#!/bin/sh
# Builds the program for 64-bit ARM and runs it in an emulator: the unit tests, the tests of the store on SQLite and on Postgres, and a
# part of the specification. Needs rustup, and Debian's gcc-aarch64-linux-gnu and qemu-user-static. CARGO names the cargo to use.
set -eu
cd "$(dirname "$0")/../.."

cargo="${CARGO:-cargo}"
target=aarch64-unknown-linux-gnu
emulator="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
for program in aarch64-linux-gnu-gcc qemu-aarch64-static; do
    command -v "$program" >/dev/null || {
        echo "$program is missing. Install the packages gcc-aarch64-linux-gnu and qemu-user-static." >&2
        exit 1
    }
done
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || rustup target add "$target"

export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator"
# The emulator starts a process by vfork as by fork, so the parent does not learn that the program is missing.
$cargo test --locked --target "$target" --lib --test conformance -- --skip says_that_no_process_can_be_started

# The tests start the program by this script.
$cargo build --locked --target "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
built="${CARGO_TARGET_DIR:-target}/$target/debug/cloudflare-images-webhook"
printf '#!/bin/sh\nexec %s "%s" "$@"\n' "$emulator" "$(realpath "$built")" >"$work/program"
chmod 755 "$work" "$work/program"
TEST_PROGRAM="$work/program" $cargo test --locked --test spec -- \
    authentication:: image_transitions:: payload_shapes:: parked_notifications:: relay_delivery:: relay_signatures::
