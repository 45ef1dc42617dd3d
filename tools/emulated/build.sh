#!/bin/bash
# build.sh ARCH CACHE [SUITE[:PACKAGE]...]
# Makes in the folder CACHE what run.sh boots: a Debian of ARCH (amd64, arm64) as root.img, and kernels, each with an initrd.
# As root on Debian 13, from apt and PyPI alone; no KVM, binfmt_misc, loop device or mount.  Does nothing if CACHE is up to date.
#   SUITE[:PACKAGE]                     a kernel: the package (linux-image-ARCH) of a suite of Debian, such as bookworm or
#                                       trixie-backports (default: trixie, the suite of everything else)
#   EMULATED_PACKAGES="..."             further Debian packages
#   EMULATED_PYPI="..."                 further Python packages
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
arch=$1
cache=$(mkdir -p "$2" && cd "$2" && pwd)
shift 2
suite=trixie
kernels=("${@:-$suite}")
packages=(
    busybox-static kmod
    bash coreutils dash diffutils findutils grep gzip sed tar mawk hostname login passwd procps mount util-linux base-passwd iproute2 file
    python3 python3-venv python3-dev libseccomp2 libseccomp-dev gcc g++ make libc6-dev libc6-dbg binutils strace gdb
    libcap2-bin git musl-tools perl bubblewrap bsdutils curl sqlite3 openssl netcat-openbsd tzdata ${EMULATED_PACKAGES:-}
)
case $arch in
arm64) machine=aarch64 need=(qemu-system-arm); packages+=(gcc-arm-linux-gnueabihf libc6-dev-armhf-cross) ;;
amd64) machine=x86_64 need=(qemu-system-x86); packages+=(gcc-multilib) ;;
*) echo "build.sh: the architecture must be amd64 or arm64" >&2; exit 2 ;;
esac
pypi=(python-ptrace pyseccomp rich pytest pytest-xdist hypothesis pyelftools PyYAML jsonschema dnspython z3-solver shtab==1.13.0 setuptools ${EMULATED_PYPI:-})

stamp=$(sha256sum "$0" | cut -c1-16)-$(printf '%s ' "$arch" "${kernels[@]}" "${packages[@]}" "${pypi[@]}" | sha256sum | cut -c1-16)
[ "$(cat "$cache/stamp" 2>/dev/null)" = "$stamp" ] && { echo "build.sh: $cache is up to date"; exit 0; }
begun=$SECONDS
step() { echo "build.sh: [$((SECONDS - begun)) s] $*"; }

step "packages of this machine"
export DEBIAN_FRONTEND=noninteractive
need+=(mmdebstrap kmod cpio e2fsprogs xz-utils python3 python3-pip)
if ! dpkg-query -W -f='${Status}\n' "${need[@]}" 2>/dev/null | awk '/install ok installed/ {n++} END {exit n != '${#need[@]}'}'; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${need[@]}" >"$cache/apt.log" 2>&1 || { tail "$cache/apt.log"; exit 1; }
fi

step "unpack Debian for $arch"
rm -rf "$cache/stamp" "$cache/root.img" "$cache/boot" "$cache/initrd" "$cache/wheels"
scratch=$cache # in memory, if there is enough: the disk takes several times as long
[ "$(df -Pm /dev/shm 2>/dev/null | awk 'END {print $4}')" -lt 4000 ] || scratch=/dev/shm
scratch=$(mktemp -d "$scratch/emulated.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/\?$' | head -1)
[ -n "$mirror" ] || { echo "build.sh: apt knows no Debian source" >&2; exit 1; }
suites() { echo "deb $mirror $1 main"; case $1 in *-backports | sid) ;; *) echo "deb ${mirror%/}-security $1-security main" ;; esac; }
mapfile -t sources < <(suites "$suite")
mmdebstrap --quiet --architectures="$arch" --variant=extract --format=directory --mode=root \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --include="$(IFS=,; echo "${packages[*]}")" "$suite" "$scratch/root" "${sources[@]}"
root=$scratch/root

step "Python packages"
site=$root/usr/local/lib/python3.13/dist-packages
mkdir -p "$site"
/usr/bin/python3 -m pip --disable-pip-version-check --quiet wheel --no-deps --wheel-dir "$cache/wheels" python-ptrace pyseccomp  # sdists, pure Python
/usr/bin/python3 -m pip --disable-pip-version-check --quiet install --root-user-action ignore --find-links "$cache/wheels" --target "$site" \
    --platform manylinux_2_34_$machine --platform manylinux_2_28_$machine --platform manylinux_2_17_$machine --platform manylinux2014_$machine \
    --python-version 3.13 --implementation cp --abi cp313 --abi abi3 --abi none --only-binary=:all: "${pypi[@]}"

step "what maintainer scripts would do"
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
sed 's/:.*/:*:20000:0:99999:7:::/' "$root/etc/passwd" >"$root/etc/shadow"
printf '127.0.0.1 localhost emulated\n::1 localhost\n' >"$root/etc/hosts"
echo emulated >"$root/etc/hostname"
ln -sf /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
link() { [ -e "$root/usr/bin/$2" ] || ln -s "$1" "$root/usr/bin/$2"; }
if [ "$arch" = arm64 ]; then # 32-bit programs find their loader and libraries where they are installed for the cross compiler
    ln -s /usr/arm-linux-gnueabihf/lib/ld-linux-armhf.so.3 "$root/usr/lib/ld-linux-armhf.so.3"
    mkdir -p "$root/etc/ld.so.conf.d" "$root/usr/lib/arm-linux-gnueabihf"
    for library in "$root"/usr/arm-linux-gnueabihf/lib/*.so*; do ln -sf "../../arm-linux-gnueabihf/lib/${library##*/}" "$root/usr/lib/arm-linux-gnueabihf/"; done
fi
if [ "$arch" = amd64 ]; then # where 32-bit programs look for their loader, which looks for libraries beside it
    ln -sfn usr/lib32 "$root/lib32"; ln -sf ../lib32/ld-linux.so.2 "$root/usr/lib/ld-linux.so.2"
fi
link mawk awk; link gcc cc; link g++ c++; link which.debianutils which; link nc.openbsd nc
mkdir -p "$root"/{proc,sys,dev,run,tmp,tree,out,root}
chmod 1777 "$root/tmp"
# A virtual environment for the tests, which look for the commands beside their interpreter: vm-init fills it with /tree's.
mkdir -p "$root/opt/venv/bin" "$root/opt/venv/lib/python3.13/site-packages"
ln -s /usr/bin/python3 "$root/opt/venv/bin/python3"; ln -s python3 "$root/opt/venv/bin/python"
printf 'home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.13\n' >"$root/opt/venv/pyvenv.cfg"
echo /tree >"$root/opt/venv/lib/python3.13/site-packages/tree.pth"
# Byte code of the same Python, made here: Debian's postinst does it, and in the machine each start would compile its modules.
/usr/bin/python3 -m compileall -q -j 2 -s "$root" -p / "$root/usr/lib/python3.13" "$root/usr/lib/python3/dist-packages" "$site" >/dev/null 2>&1 || true

mkdir -p "$cache/boot" "$cache/initrd"/{bin,dev,proc,sys,newroot,lib} "$root/usr/lib/modules"
cp "$root/usr/bin/busybox" "$cache/initrd/bin/busybox"
ln -sf busybox "$cache/initrd/bin/sh"
cat >"$cache/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read module; do /bin/busybox insmod /lib/$module; done </lib/order
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 -o noatime /dev/vda /newroot || exec /bin/busybox sh
/bin/busybox mount -o move /dev /newroot/dev
exec /bin/busybox switch_root /newroot /sbin/vm-init
INIT
chmod +x "$cache/initrd/init"
for kernel in "${kernels[@]}"; do
    step "kernel of $kernel"
    package=linux-image-$arch
    case $kernel in *:*) package=${kernel#*:} kernel=${kernel%%:*} ;; esac
    apt=$scratch/apt.$kernel unpacked=$scratch/$kernel # apt for that suite alone, without this machine's sources and packages
    mkdir -p "$apt/lists" "$apt/cache" "$unpacked"
    suites "$kernel" >"$apt/sources"
    : >"$apt/status"
    own=(-qq -o "Dir::Etc::sourcelist=$apt/sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o APT::Sandbox::User=root -o "Dir::State::status=$apt/status"
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "APT::Architecture=$arch" -o "APT::Architectures=$arch")
    apt-get "${own[@]}" update
    mapfile -t files < <(apt-cache "${own[@]}" depends --recurse --important "$package" | grep -E '^linux-(image|base|binary|modules)-[0-9]')
    (cd "$apt" && apt-get "${own[@]}" download "${files[@]}")
    for file in "$apt"/*.deb; do dpkg-deb -x "$file" "$unpacked"; done
    [ -d "$unpacked/usr/lib/modules" ] || { mkdir -p "$unpacked/usr"; mv "$unpacked/lib" "$unpacked/usr/lib"; } # until bookworm
    release=$(ls "$unpacked/usr/lib/modules")
    modules=$root/usr/lib/modules/$release
    mv "$unpacked/usr/lib/modules/$release" "$modules"
    mkdir -p "$cache/boot/$release"
    vmlinuz=$unpacked/boot/vmlinuz-$release
    [ -e "$vmlinuz" ] || vmlinuz=$modules/vmlinuz # since 7.x
    cp "$vmlinuz" "$cache/boot/$release/Image"
    depmod -b "$root" "$release"
    rm -rf "$cache/initrd/lib"; mkdir "$cache/initrd/lib"; : >"$cache/initrd/lib/order"
    for module in virtio_pci virtio_blk ext4 virtio_rng virtio_console; do
        modprobe -d "$root" -S "$release" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" {print $2}'
    done | awk '!seen[$0]++' | while read -r file; do
        name=$(basename "$file"); name=${name%.xz}
        case $file in *.xz) xz -dc "$file" ;; *) cat "$file" ;; esac >"$cache/initrd/lib/$name"
        echo "$name" >>"$cache/initrd/lib/order"
    done
    (cd "$cache/initrd" && find . | cpio -o -H newc --quiet | gzip -1 >"$cache/boot/$release/initrd")
    rm -rf "$apt" "$unpacked" "$modules"/{vmlinuz,System.map,dtb} "$modules"/kernel/sound
    rm -rf "$modules"/kernel/drivers/{gpu,media,net/{wireless,ethernet},iio,staging,usb,infiniband,scsi,mtd,hwmon,input,clk,phy,power,pinctrl,soc}
done
rm -rf "$cache/initrd"

cat >"$root/sbin/vm-init" <<'INIT'
#!/bin/bash
# The first process: unpacks /dev/vdb into /tree, runs /dev/vdc there as a script, reports over virtio-serial, ends.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t proc proc /proc; mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm; mount -t devpts -o gid=5,mode=620,ptmxmode=666 pts /dev/pts; mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run; mount -t tmpfs -o mode=1777,size=75% tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup; mount -t tracefs tracefs /sys/kernel/tracing; mount -t securityfs s /sys/kernel/security
ln -sf /proc/self/fd /dev/fd; ln -sf /proc/self/fd/0 /dev/stdin; ln -sf /proc/self/fd/1 /dev/stdout; ln -sf /proc/self/fd/2 /dev/stderr
hostname emulated; ip link set lo up; echo 1 >/proc/sys/kernel/printk
for port in /sys/class/virtio-ports/*; do declare "$(cat "$port/name")=/dev/${port##*/}"; done
mkdir -p /tree /out
tar -C /tree -xf /dev/vdb; chown -R 0:0 /tree
for script in /tree/*/bin/*; do # what pip would install: scripts that begin with #!python
    [ "$(head -c 8 "$script" 2>/dev/null)" = '#!python' ] || continue
    sed '1s|.*|#!/opt/venv/bin/python|' "$script" >"/opt/venv/bin/${script##*/}"; chmod +x "/opt/venv/bin/${script##*/}"
done
export PATH=/opt/venv/bin:$PATH
head -c "$(cat /proc/cmdline | sed -n 's/.*vm.script=\([0-9]*\).*/\1/p')" /dev/vdc >/run/command
read -r up _ </proc/uptime; echo "booted $up" >"$status"
cd /tree
setsid bash /run/command </dev/null >"$output" 2>&1
code=$?
read -r up _ </proc/uptime
tar -C /out -cf /dev/vdd . 2>/dev/null
echo "exit $code $up" >"$status"
sync
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x "$root/sbin/vm-init"

step "image"
rm -rf "$root/boot"/* "$root/var/lib/apt" "$root/var/cache/apt" "$root/usr/share/man" "$root/usr/share/locale"/*
mkdir -p "$root/usr/share/locale" # where tests mount one
size=$(du -sm "$root" | cut -f1)
mke2fs -q -t ext4 -O ^has_journal -m 0 -E lazy_itable_init=1 -d "$root" "$cache/root.img" $((size + size / 8 + 1500))M
rm -rf "$cache/wheels"
echo "$machine" >"$cache/machine"
echo "$stamp" >"$cache/stamp"
step "done: Linux $(ls "$cache/boot" | paste -sd " "), image $(du -m "$cache/root.img" | cut -f1) MB"
