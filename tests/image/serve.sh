#!/bin/sh
# Runs the service of a container image as platforms do. run.sh calls it in a network namespace and a mount namespace of its own.
# $1: the buildah container, $2: the folder with its files, $3: a folder for temporary files.
set -eu
container=$1 root=$2 work=$3
program=/usr/local/bin/cloudflare-images-webhook
secret=0123456789abcdef0123456789abcdef
ip link set lo up

fail() {
    echo "FAILED: $*" >&2
    cat "$work/log" >&2
    exit 1
}

# Waits until the service is ready, sends it a webhook, checks the command of HEALTHCHECK, and stops it. $1: the address of the
# service, $2: a command in the container. The service runs as process $service.
check() {
    address=$1
    tries=0
    until curl --silent --fail --output /dev/null "http://$address:9090/readyz"; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || fail "the service is not ready"
        kill -0 "$service" 2>/dev/null || fail "the service has ended"
        sleep 0.1
    done
    answer=$(curl --silent --header "cf-webhook-auth: $secret" --data '{"text":"test message"}' \
        "http://$address:8080/cloudflare-images/api/webhook/")
    [ "$answer" = '{"outcome":"test"}' ] || fail "the webhook was answered with $answer"
    wrong=$(curl --silent --output /dev/null --write-out '%{http_code}' --header 'cf-webhook-auth: wrong' --data '{"text":"test message"}' \
        "http://$address:8080/cloudflare-images/api/webhook/")
    [ "$wrong" = 401 ] || fail "a wrong secret was answered with $wrong"
    $2 healthcheck >/dev/null || fail "healthcheck failed"
    # A command in the container exits with the service, so the signal goes to the service itself.
    kill -TERM "$(pgrep --newest --full "$program serve")"
    status=0
    wait "$service" || status=$?
    [ $status = 0 ] || fail "the service ended with $status"
    echo "works: $3"
}

in_container() {
    buildah run --isolation chroot --cap-drop all --user "$user" --volume "$data:/app/data" \
        --env CLOUDFLARE_WEBHOOK_SECRET=$secret "$container" -- "$program" "$@"
}

# The user of the image, and a random user of group 0, as on OpenShift. Both have the owner and the mode of the image's folder.
for user in 10001:0 1234567:0; do
    data="$work/data-$user"
    data=$(echo "$data" | tr : -)
    cp --archive "$root/app/data" "$data"
    in_container serve >"$work/log" 2>&1 &
    service=$!
    check 127.0.0.1 in_container "user $user"
done

# A root file system that is read-only except for the volume, no capabilities, and no new privileges.
mount --bind "$root" "$root"
cp --archive "$root/app/data" "$work/read-only"
mount --bind "$work/read-only" "$root/app/data"
mkdir -p "$root/proc"
mount -t proc proc "$root/proc"
mount -o remount,bind,ro "$root"
read_only() {
    env -i APP_PROFILE=production APP__SERVER__LISTEN='[::]:8080' APP__OPS__LISTEN='[::]:9090' \
        DATABASE_URL=sqlite:///app/data/images.db CLOUDFLARE_WEBHOOK_SECRET=$secret PATH="$PATH" \
        setpriv --no-new-privs chroot --userspec=10001:0 --groups= "$root" "$program" "$@"
}
read_only serve >"$work/log" 2>&1 &
service=$!
check 127.0.0.1 read_only "read-only root file system"

ip address delete 127.0.0.1/8 dev lo
read_only serve >"$work/log" 2>&1 &
service=$!
check '[::1]' read_only "a network with IPv6 only"
