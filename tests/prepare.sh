#!/bin/sh
# Installs the packages that the tests need and that are missing. It installs them on Debian, as root;
# elsewhere it lists them. Arguments name more required programs, each in a package of the same name.
set -eu

missing=""
command -v cc >/dev/null || missing="$missing gcc libc6-dev"
command -v ps >/dev/null || missing="$missing procps"
if [ -z "${TEST_DATABASE_URL:-}" ] && ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    missing="$missing postgresql"
fi
# tests/spec/relay_signatures.rs verifies signatures in these languages.
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
    # shellcheck disable=SC2086 # word splitting is intended
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
else
    echo "The tests need these packages (Debian's names): $missing" >&2
    echo "Install them. Instead of installing Postgres, set TEST_DATABASE_URL to a server that can create databases." >&2
    exit 1
fi
