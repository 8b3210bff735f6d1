#!/bin/sh
# Installs what the tests need and do not find, on Debian as root; elsewhere it says what to install. Programs that are named
# as arguments are needed too, and are in packages of the same name.
set -eu

missing=""
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v ps >/dev/null || missing="$missing procps"
if [ -z "${TEST_DATABASE_URL:-}" ] && ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    missing="$missing postgresql"
fi
# Subscribers verify what they are told in these languages.
command -v python3 >/dev/null || missing="$missing python3"
command -v node >/dev/null || missing="$missing nodejs"
command -v nats-server >/dev/null || missing="$missing nats-server"
command -v openssl >/dev/null || missing="$missing openssl"
for program in "$@"; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update
    # shellcheck disable=SC2086 # the names are to be split
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
else
    echo "The tests need these packages (Debian's names): $missing" >&2
    echo "Install them, or for Postgres set TEST_DATABASE_URL to a server on which databases may be made." >&2
    exit 1
fi
