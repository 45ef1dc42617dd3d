#!/bin/sh
# Runs a command under a `systemd --user` of its own: user_manager.sh FOLDER COMMAND [ARGUMENT ...], as root, as the first
# process of new mount and pid namespaces (unshare --mount --pid --fork --kill-child --mount-proc).  The manager has a cgroup
# and a /run of its own, and its configuration in FOLDER; nothing of it is left behind.
set -eu
folder=$1
shift
before=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir -p "$folder/cgroups" "$folder/home"
mount -t cgroup2 cgroup2 "$folder/cgroups"
own=$folder/cgroups$before/callfence-$(basename "$folder")
mkdir "$own"
echo 0 >"$own/cgroup.procs"
status=0
unshare --cgroup sh -euc '
    umount -l /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t tmpfs tmpfs /run
    mkdir -p /run/systemd/system /run/user/0 # without the first a manager says that the system was not booted with systemd
    export XDG_RUNTIME_DIR=/run/user/0 HOME="$0/home" XDG_CONFIG_HOME="$0/config" SYSTEMD_LOG_TARGET=console
    unset DBUS_SESSION_BUS_ADDRESS XDG_SESSION_ID
    /usr/lib/systemd/systemd --user --unit=basic.target </dev/null >"$0/manager.log" 2>&1 &
    manager=$!
    tries=0
    until [ -S /run/user/0/systemd/private ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { cat "$0/manager.log" >&2; exit 1; }
        sleep 0.05
    done
    status=0
    "$@" || status=$?
    kill "$manager"
    wait "$manager" || true
    exit $status
' "$folder" "$@" || status=$?
echo 0 >"$folder/cgroups$before/cgroup.procs"
find "$own" -depth -type d -exec rmdir {} \;
umount "$folder/cgroups"
exit $status
