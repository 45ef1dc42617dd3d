. "$(dirname "$0")/common.sh"
pid() { cat data/redis.pid; }
redis_() { start redis-server data/redis.conf; }
cli() { redis-cli -p "$PORT" "$@" >/dev/null || true; }
info() { redis-cli -p "$PORT" info "$1" | grep -q "$2"; }

new_folder
cat >data/redis.conf <<CONF
port $PORT
bind 127.0.0.1
dir $PWD/data
pidfile $PWD/data/redis.pid
logfile redis.log
save 60 100
CONF

plain() {
    cli set key value
    cli get key
}

requests() {
    plain
    cli nonsense
    cli lpush key 1
    cli eval 'return 1' 0
    cli expire key 100
    cli publish channel message
    cli client list
    cli info
    cli flushdb async
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT; printf '*2\r\n\$3\r\nGE' >&3"
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT; printf '*9999999999\r\n' >&3; timeout 5 cat <&3 >/dev/null" || true
}

save() {
    cli save
    cli bgsave
    eventually info persistence rdb_bgsave_in_progress:0
}

append_only() {
    cli config set appendonly yes
    cli set key value
    cli bgrewriteaof
    eventually info persistence aof_rewrite_in_progress:0
    eventually info persistence aof_rewrite_scheduled:0
    cli config set appendonly no
}

configure() {
    cli config set maxmemory 100mb
    cli config rewrite
}

benchmark() {
    redis-benchmark -p "$PORT" -q -n "$1" -c "$2" -t set,get,incr,lpush,lrange_100,mset >/dev/null
}

shut_down() {
    cli shutdown "$1"
    ended 0
}

case $part in
start)
    redis_; stop
    ;;
once)
    redis_; plain; stop
    ;;
recipe)
    redis_; requests; save; stop
    redis_; requests; append_only; configure; benchmark 3000 20; stop INT
    redis_; plain; shut_down save
    redis_; plain; stop KILL 137
    redis_; plain; stop
    ;;
everything)
    redis_; plain; save; stop
    redis_; save; requests; benchmark 20000 50; append_only; configure; save; stop INT
    redis_; plain; shut_down save
    redis_; plain; stop KILL 137
    redis_; plain; shut_down nosave
    ;;
esac
