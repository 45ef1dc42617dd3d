. "$(dirname "$0")/common.sh"
pid() { cat data/pid; }
memcached_() {
    local user=()
    [ "$(id -u)" != 0 ] || user=(-u nobody)
    start memcached -l 127.0.0.1 -p "$PORT" -P data/pid -t 4 -m 64 "${user[@]}"
}
client() { python3 "$(dirname "$0")/memcached.py" "$PORT" "$@" || fail "memcached.py $*"; }

new_folder
chmod 777 data

plain() { client one; }

requests() {
    plain
    client all
    client rude
}

reload() {
    kill -HUP "$(pid)"
    plain
}

case $part in
start)
    memcached_; stop
    ;;
once)
    memcached_; plain; stop
    ;;
recipe)
    memcached_; requests; stop
    memcached_; requests; client large; client many 20 100; reload; stop INT
    memcached_; plain; stop USR1
    memcached_; plain; stop
    ;;
everything)
    memcached_; plain; stop
    memcached_; requests; client many 50 200; client large; reload; stop INT
    memcached_; requests; stop USR1
    ;;
esac
