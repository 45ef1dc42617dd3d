#!/bin/bash
# system.sh FOLDER COMMAND [ARGUMENT ...]: runs a command in a system of its own, whose first process is systemd, as root.
# The system sees this machine's files; what it changes goes to memory, but in FOLDER, which is /mnt there.  FOLDER/opt is
# /opt/callfence.  It has a cgroup, processes, /run and a journal of its own, and this machine's network.  Nothing of it is left.
set -euo pipefail
if [ "${1-}" != --own-mounts ]; then
    exec unshare --mount --propagation private bash "$0" --own-mounts "$@"
fi
folder=$2
shift 2
before=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir -p "$folder/cgroups"
mount -t cgroup2 cgroup2 "$folder/cgroups"
own=$folder/cgroups${before%/}/callfence-$$
mkdir "$own"
echo 0 >"$own/cgroup.procs"
unshare --cgroup --mount --uts --ipc --pid --fork --kill-child bash -euc '
    top=$0/top
    mkdir -p "$top"
    mount -t tmpfs tmpfs "$top"
    mkdir "$top/changes" "$top/work" "$top/root"
    mount -t overlay -o "lowerdir=/,upperdir=$top/changes,workdir=$top/work" overlay "$top/root"
    cd "$top/root"
    mount -t proc proc proc
    mount --rbind /sys sys
    umount -l sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    mount -t tmpfs tmpfs tmp
    mount --bind "$0" mnt
    if [ -d "$0/opt" ]; then
        mkdir -p opt/callfence
        mount --bind "$0/opt" opt/callfence
    fi
    rm -rf etc/systemd/system/* etc/fstab etc/machine-id
    tr -d - <proc/sys/kernel/random/uuid >etc/machine-id
    mkdir -p etc/systemd/journald.conf.d # audit and the log of the kernel are not those of a namespace
    printf "[Journal]\nAudit=\nReadKMsg=no\n" >etc/systemd/journald.conf.d/own.conf
    ln -s /dev/null etc/systemd/system/systemd-journald-audit.socket
    for unit in systemd-udevd systemd-udev-trigger systemd-logind systemd-networkd systemd-resolved systemd-sysctl \
        systemd-modules-load systemd-remount-fs systemd-binfmt; do
        ln -s /dev/null "etc/systemd/system/$unit.service"
    done
    mkdir old
    pivot_root . old
    umount -l /old
    export container=callfence
    exec /usr/lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=no
' "$folder" </dev/null >"$folder/manager.log" 2>&1 &
outer=$!
status=125
for _ in $(seq 300); do
    manager=$(pgrep -P "$outer" || true)
    # shellcheck disable=SC2086 # one process
    if [ -n "$manager" ] && nsenter -a -t $manager systemctl is-active -q basic.target 2>/dev/null; then
        status=0
        nsenter -a -t "$manager" "$@" || status=$?
        break
    fi
    [ -d "/proc/$outer" ] || break
    sleep 0.1
done
[ "$status" != 125 ] || cat "$folder/manager.log" >&2
[ -z "${manager-}" ] || kill -KILL "$manager" 2>/dev/null || true
wait "$outer" 2>/dev/null || true
echo 0 >"$folder/cgroups${before%/}/cgroup.procs"
for _ in $(seq 100); do # the last processes of a pid namespace end after its first
    ! find "$own" -depth -type d -exec rmdir {} + 2>/dev/null || break
    sleep 0.05
done
[ ! -d "$own" ] || echo "system.sh: $own is left" >&2
exit "$status"
