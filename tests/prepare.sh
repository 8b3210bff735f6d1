#!/bin/sh
# Installs the packages that the tests need and that are missing. It installs them on Debian, as root;
# elsewhere it lists them. Arguments name more required programs, each in a package of the same name.
set -eu

missing=""
# Adds the packages to the missing ones unless the command succeeds.
need() {
    packages="$1"
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $packages"
}
has() {
    command -v "$1"
}
has_initdb() {
    has initdb || ls /usr/lib/postgresql/*/bin/initdb
}
# tests/docs/guides/programs.rs looks for the package in the same folders.
has_node_postgres() {
    NODE_PATH="/usr/share/nodejs:$(npm root --global 2>/dev/null)" node -e 'require("pg")'
}

need "gcc libc6-dev" has cc
need procps has ps
# The tests of networks make their own.
need iproute2 has ip
need util-linux has unshare
[ -n "${TEST_DATABASE_URL:-}" ] || need postgresql has_initdb
need systemd has systemd-analyze
need nginx-light ls /usr/sbin/nginx
need caddy has caddy
need haproxy ls /usr/sbin/haproxy
need pgbouncer ls /usr/sbin/pgbouncer
need nats-server has nats-server
need tinyproxy-bin has tinyproxy
need microsocks has microsocks
need openssl has openssl
# The documentation's commands.
need curl has curl
need postgresql-client has psql
need sqlite3 has sqlite3
# The documentation's programs. Only Debian's interpreters find Debian's modules.
need python3 has python3
need python3-venv python3 -c 'import ensurepip'
need "python3-django python3-psycopg2" /usr/bin/python3 -c 'import django, psycopg2'
need "ruby ruby-activerecord ruby-pg ruby-sqlite3" /usr/bin/ruby -e 'require "active_record"; require "pg"; require "sqlite3"'
need "golang-go golang-github-lib-pq-dev" ls /usr/share/gocode/src/github.com/lib/pq
need golang-go has go
need nodejs has node
# Debian's package of pg needs Debian's Node.js. A Node.js from elsewhere comes with npm.
install_node_postgres=false
if ! has_node_postgres >/dev/null 2>&1; then
    if has npm >/dev/null; then
        install_node_postgres=true
    else
        missing="$missing node-pg"
    fi
fi
for program in "$@"; do
    need "$program" has "$program"
done
[ -n "$missing" ] || [ "$install_node_postgres" = true ] || exit 0

if [ "$(id -u)" = 0 ] && has apt-get >/dev/null; then
    if [ -n "$missing" ]; then
        apt-get update
        # shellcheck disable=SC2086 # word splitting is intended
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing
    fi
    if [ "$install_node_postgres" = true ]; then
        npm install --global pg@8
    fi
else
    if [ -n "$missing" ]; then
        echo "The tests need these packages (Debian's names):$missing" >&2
        echo "Install them. Instead of installing Postgres, set TEST_DATABASE_URL to a server that can create databases." >&2
    fi
    if [ "$install_node_postgres" = true ]; then
        echo "The tests need the package pg of Node.js: npm install --global pg@8" >&2
    fi
    exit 1
fi
