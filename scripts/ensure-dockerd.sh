#!/bin/sh
# Makes sure that a Docker daemon answers: uses the one that is there, or installs Debian's docker.io
# and starts dockerd without systemd. Needs root for the latter. May be called as often as one likes.
#
# Prints DOCKER_HOST=unix://... on stdout when the daemon answers, and everything else on stderr.
# Set in the environment: DOCKERD_DIR for its data, log and pid file (/var/tmp/shardrun-dockerd),
# DOCKERD_SOCKET (/var/run/docker.sock), DOCKERD_SECONDS to wait for it (60).
set -eu

dir=${DOCKERD_DIR:-/var/tmp/shardrun-dockerd}
socket=${DOCKERD_SOCKET:-/var/run/docker.sock}
seconds=${DOCKERD_SECONDS:-60}

tell() { printf 'ensure-dockerd: %s\n' "$*" >&2; }
give_up() { tell "$*"; exit 1; }

# The server's version: docker --version is content without a server.
answers() {
    command -v docker >/dev/null &&
        timeout 10 docker -H "unix://$socket" version --format '{{.Server.Version}}' >/dev/null 2>&1
}
finish() {
    tell "a daemon answers at $socket ($1)"
    printf 'DOCKER_HOST=unix://%s\n' "$socket"
    exit 0
}

install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    tell "installing docker.io, iptables and iproute2"
    # The package would start a daemon of its own, which is not the one that is started here.
    policy=/usr/sbin/policy-rc.d
    ours=no
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        ours=yes
    fi
    done=no
    apt-get update -qq >&2 || tell "the lists of packages could not be updated"
    apt-get install -qq -y --no-install-recommends docker.io iptables iproute2 >&2 && done=yes
    [ $ours = no ] || rm -f $policy
    [ $done = yes ] || give_up "docker.io could not be installed"
}

# What systemd would have mounted.
mount_cgroups() {
    awk '$2 == "/sys/fs/cgroup" {found = 1} END {exit !found}' /proc/mounts && return
    controllers=$(awk 'NR > 1 && $2 != 0 && $4 == 1 {print $1}' /proc/cgroups)
    if [ -z "$controllers" ]; then
        mount -t cgroup2 none /sys/fs/cgroup
        return
    fi
    mount -t tmpfs -o mode=755 none /sys/fs/cgroup
    for each in $controllers; do
        mkdir -p "/sys/fs/cgroup/$each"
        mount -t cgroup -o "$each" none "/sys/fs/cgroup/$each" || rmdir "/sys/fs/cgroup/$each"
    done
}

# A daemon that was killed leaves its number, which may belong to somebody else by now.
forget_dead_daemon() {
    pid=$(cat "$dir/pid" 2>/dev/null) || return 0
    grep -qs dockerd "/proc/$pid/cmdline" || rm -f "$dir/pid"
}

start_daemon() {
    : >"$dir/log"
    setsid nohup dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --log-level warn -H "unix://$socket" "$@" </dev/null >>"$dir/log" 2>&1 9>&- &
    daemon=$!
    end=$(($(date +%s) + seconds))
    while [ "$(date +%s)" -lt "$end" ]; do
        answers && return
        kill -0 $daemon 2>/dev/null || return 1
        sleep 0.2
    done
    kill $daemon
    return 1
}

another_daemon_runs() { grep -qsx dockerd /proc/[0-9]*/comm; }

answers && finish "it was there"
[ "$(id -u)" = 0 ] || give_up "no daemon answers at $socket, and only root can start one"

mkdir -p "$dir" "$(dirname "$socket")"
chmod 711 "$dir"
if command -v flock >/dev/null; then
    exec 9>"$dir/lock"
    flock -w "$seconds" 9 || give_up "somebody else has been starting a daemon for $seconds s"
    answers && finish "somebody else has started it"
fi

for program in docker dockerd runc iptables ip; do
    if ! command -v $program >/dev/null; then
        install_packages
        break
    fi
done
mount_cgroups
forget_dead_daemon

start_daemon && finish "started"
case $(tail -n 20 "$dir/log") in
    *iptables* | *NAT* | *netfilter*)
        # With a bridge of none it would delete the bridge of another one in this network.
        another_daemon_runs && give_up "no network can be set up beside the other daemon: see $dir/log"
        tell "starting it without a bridge: containers have no network but the host's"
        start_daemon --iptables=false --ip-masq=false --bridge=none && finish "started, no bridge"
        ;;
    *overlay* | *graphdriver*)
        tell "starting it with the storage that works anywhere"
        start_daemon --storage-driver vfs && finish "started, vfs"
        ;;
esac
tail -n 20 "$dir/log" >&2
give_up "dockerd could not be started: see $dir/log"
