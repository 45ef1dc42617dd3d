#!/bin/bash
# run.sh [-l LINUX] [-t SECONDS] [-m MIB] [-n CPUS] [-o FOLDER] [-r FOLDER] [-k] CACHE COMMAND
# Runs COMMAND, a line for bash, as root in /tree of a machine (made by build.sh in CACHE): a copy of the git tree in
# the current folder (or that of -r), with what is not committed and not ignored.  Prints what it prints, at once.
# Exit status: that of COMMAND; 124 after SECONDS (default 600); 125 if the machine did not work.
# -l: the kernel whose version begins so, such as 6.1; needed if CACHE has several.
# -o: what COMMAND leaves in /out of the machine comes back to FOLDER.  -k: print the kernel's console at the end.
set -euo pipefail
linux='' limit=600 memory=2048 cpus=2 out='' tree=. console=''
while getopts l:t:m:n:o:r:k option; do
    case $option in l) linux=$OPTARG ;; t) limit=$OPTARG ;; m) memory=$OPTARG ;; n) cpus=$OPTARG ;; o) out=$OPTARG ;; r) tree=$OPTARG ;; k) console=1 ;; *) exit 125 ;; esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { sed -n '2,7s/^# //p' "$0" >&2; exit 125; }
cache=$1; shift
shopt -s extglob
boot=("$cache"/boot/*)
[ -z "$linux" ] || boot=("$cache/boot/$linux"?(.*))
[ -e "${boot[0]}/Image" ] && [ ${#boot[@]} = 1 ] || { echo "run.sh: -l must name one of: $(ls "$cache/boot" | paste -sd ' ')" >&2; exit 125; }
case $(<"$cache/machine") in
aarch64) qemu=(qemu-system-aarch64 -machine virt,gic-version=3 -cpu "${EMULATED_CPU:-max,pauth=off,sve=off}" -accel tcg,thread=multi) terminal=ttyAMA0 ;;
x86_64)
    qemu=(qemu-system-x86_64 -machine q35) terminal=ttyS0
    if [ -w /dev/kvm ] && grep -qwE "vmx|svm" /proc/cpuinfo; then # other kinds of /dev/kvm run only kernels made for them
        qemu+=(-cpu "${EMULATED_CPU:-host}" -accel kvm); else qemu+=(-cpu "${EMULATED_CPU:-max}" -accel tcg,thread=multi); fi
    ;;
esac
work=$(mktemp -d "${TMPDIR:-/var/tmp}/emulated.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$tree" && { git ls-files -coz --exclude-standard 2>/dev/null || find . -type f -print0; } | tar --null -T - --no-recursion --ignore-failed-read -cf "$work/tree.tar" 2>/dev/null) || true
printf '%s\n' "$*" >"$work/command"; length=$(stat -c %s "$work/command"); truncate -s %512 "$work/command"
truncate -s 256M "$work/out.tar"
disk() { echo -drive "if=none,id=$1,format=raw,file=$2,$3" -device "virtio-blk-pci,drive=$1"; }
mkfifo "$work/output"; cat "$work/output" & printer=$!
status=0
TMPDIR=$work timeout -k 5 "$limit" nice -n 5 "${qemu[@]}" -smp "$cpus" -m "$memory" \
    -nodefaults -no-user-config -display none -no-reboot -serial "file:$work/console" -monitor none \
    -kernel "${boot[0]}/Image" -initrd "${boot[0]}/initrd" -append "console=$terminal panic=-1 quiet mitigations=off ${EMULATED_APPEND:-} vm.script=$length" \
    $(disk root "$cache/root.img" snapshot=on,cache=unsafe) $(disk tree "$work/tree.tar" readonly=on) \
    $(disk command "$work/command" readonly=on) $(disk out "$work/out.tar" cache=unsafe) \
    -device virtio-rng-pci -device virtio-serial-pci \
    -chardev "file,id=output,path=$work/output" -device virtserialport,chardev=output,name=output \
    -chardev "file,id=status,path=$work/status" -device virtserialport,chardev=status,name=status </dev/null || status=$?
: <>"$work/output" # or, if there was no machine, the printer would wait for ever
wait "$printer" || true
[ -z "$console" ] || cat "$work/console" >&2
[ -z "$out" ] || { mkdir -p "$out"; tar -C "$out" -xf "$work/out.tar" 2>/dev/null || true; }
[ -z "${EMULATED_TIMES:-}" ] || cat "$work/status" >&2
if [ "$status" = 124 ] || [ "$status" = 137 ]; then echo "run.sh: ended after $limit s" >&2; exit 124; fi
code=$(awk '$1 == "exit" {print $2}' "$work/status" 2>/dev/null || true)
[ -n "$code" ] || { echo "run.sh: the machine did not report (qemu: $status)" >&2; tail -20 "$work/console" >&2 || true; exit 125; }
exit "$code"
