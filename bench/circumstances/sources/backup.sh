# Keeps a copy of a file with the time in its name, and removes the oldest of more than three: bash backup.sh FILE
set -eu
trap 'echo "backup.sh: stopped" >&2; exit 3' TERM INT
mkdir -p kept
if [ "$1" = - ]; then
    read -r line || true
    echo "$line" >kept/line
else
    cp -p "$1" "kept/$(basename "$1").$(date +%s%N)"
fi
ls -t kept | tail -n +4 | while read -r old; do rm "kept/$old"; done
wc -l kept/* | tail -n 1
