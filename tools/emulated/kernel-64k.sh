#!/bin/bash
# kernel-64k.sh CACHE
# Adds to CACHE, made by `build.sh arm64 CACHE`, a kernel with pages of 64 KiB, which Debian does not have: Debian's source of
# Linux with the options of kernel-64k.config alone.  `run.sh -l 64k CACHE COMMAND` boots it.  As root on Debian 13, from apt.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
config=$(cd "$(dirname "$0")" && pwd)/kernel-64k.config
cache=$(cd "$1" && pwd)
boot=$cache/boot/64k
[ "$boot/initrd" -nt "$config" ] && { echo "kernel-64k.sh: $boot is up to date"; exit 0; }
initrd=("$cache"/boot/*arm64*/initrd) # that of Debian's kernel: here it can load no modules, and needs none
[ -e "${initrd[0]}" ] || { echo "kernel-64k.sh: first, build.sh arm64 $1" >&2; exit 2; }

need=(linux-source-6.12 gcc-aarch64-linux-gnu gcc libc6-dev make flex bison bc xz-utils)
if ! dpkg-query -W -f='${Status}\n' "${need[@]}" 2>/dev/null | awk '/install ok installed/ {n++} END {exit n != '${#need[@]}'}'; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${need[@]}" >"$cache/apt.log" 2>&1 || { tail "$cache/apt.log"; exit 1; }
fi
source=$(mktemp -d "$cache/linux.XXXXXX")
trap 'rm -rf "$source"' EXIT
tar -C "$source" --strip-components=1 -xf /usr/src/linux-source-6.12.tar.xz
make=(nice -n 5 make -s -C "$source" ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-)
"${make[@]}" KCONFIG_ALLCONFIG="$config" allnoconfig
if grep ^CONFIG_ "$config" | grep -vxFf "$source/.config" >&2; then echo "kernel-64k.sh: Linux did not take these options" >&2; exit 1; fi
"${make[@]}" -j "$(nproc)" Image
mkdir -p "$boot"
cp "$source/arch/arm64/boot/Image" "$boot/Image"
cp "${initrd[0]}" "$boot/initrd"
echo "kernel-64k.sh: Linux $("${make[@]}" kernelrelease)"
