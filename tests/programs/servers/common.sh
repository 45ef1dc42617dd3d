# What the scripts of this folder share.  Each is called in a folder that it may write to, with a free PORT in the environment:
#
#     bash nginx.sh PART [COMMAND ...]
#
# and puts COMMAND (`learn`, `enforce`; none: a plain run) before each start of the server.  PART is
#
#     start        one start and one shutdown, no request (not of node)
#     once         one plain run: start, the requests that every day has, shutdown
#     recipe       the runs of docs/learning-a-server.md
#     everything   what the server must do under the policy: more load, more clients, in another order
#     roles        of nginx: one run in which workers that replace others do less than the first ones
#     reloads      of nginx: 200 requests that are passed on, in each of ROUNDS reloads (10), and 0 of them lost
#
# It ends with 1, and says why, if an answer or an exit status is not the expected one.

set -eu
part=$1
shift
command=("$@")
URL=http://127.0.0.1:$PORT
server=
upstream=
trap '[ -z "$upstream" ] || kill $upstream; [ -z "$server" ] || kill -KILL "$server" $(pid) $(pgrep -P "$(pid)") 2>/dev/null || true' EXIT

fail() {
    echo "$*" >&2
    exit 1
}

# start PROGRAM [ARGUMENT ...]: in the background, until it is ready
start() {
    "${command[@]}" "$@" </dev/null >>out 2>&1 &
    server=$!
    echo "${1##*/}" >>starts
    until ready; do
        kill -0 $server 2>/dev/null || fail "$1 ended before it was ready"
        sleep 0.1
    done
}

ready() {
    (: <>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null
}

# ended STATUS: the server ends by itself
ended() {
    local status=0
    { wait $server || status=$?; } 2>/dev/null # without bash's own message about a killed job
    server=
    [ $status = "$1" ] || fail "exit status $status, not $1"
}

has_pid() { [ -n "$(pid)" ]; }

# stop [SIGNAL [STATUS]]; some servers listen before they write their pid
stop() {
    eventually has_pid
    replaced kill -"${1:-TERM}" "$(pid)"
    ended "${2:-0}"
}

# eventually COMMAND ...: until it succeeds
eventually() {
    local tries=1200
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "it never came: $*"
        sleep 0.1
    done
}

# replaced COMMAND ...: the command makes all processes end that the server has now; gone, they write to no file any more
replaced() {
    local child children
    children=$(pgrep -P "$(pid)") || true
    "$@"
    for child in $children; do
        eventually test ! -e "/proc/$child/exe" # absent for a zombie, too
    done
}

# answers CODE PATH [OPTION ...]: the status of a request
answers() {
    local expected=$1 path=$2 got
    shift 2
    got=$(curl -s -m 60 -o /dev/null -w '%{http_code}' "$@" "$URL$path") || true
    [ "$got" = "$expected" ] || fail "$path: $got, not $expected"
}

# together CLIENTS REQUESTS CODE PATH [OPTION ...]: from so many clients at the same time, each with a connection that it keeps
together() {
    local clients=$1 requests=$2 path=$4 one
    shift 2
    seq "$clients" | xargs -P "$clients" -I CLIENT bash -c '
        requests=$0 expected=$1 url=$2
        shift 2
        for one in $(seq $requests); do printf "url = %s\noutput = /dev/null\n" "$url"; done |
            curl -s -m 120 -w "%{http_code}\n" -K - "$@" | grep -vxc "$expected" >/dev/null && exit 255 || exit 0
    ' "$requests" "$1" "$URL$path" "${@:3}" || fail "$clients clients: not all answered $1"
}

# A client that goes away in the middle of an answer, one in the middle of its request, and one that does not speak HTTP.
rude() {
    curl -s -m 60 "$URL$1" | head -c 10 >/dev/null || true
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT; printf 'GET / HT' >&3"
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT; printf '\\0nonsense\\r\\n\\r\\n' >&3; timeout 5 cat <&3 >/dev/null" || true
}

new_folder() {
    rm -rf data starts
    mkdir data
}
