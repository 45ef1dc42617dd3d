. "$(dirname "$0")/common.sh"
PATH=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1):$PATH
export PGHOST=127.0.0.1 PGPORT=$PORT PGUSER=postgres PGDATABASE=postgres
pid() { head -1 data/postmaster.pid; }
postgres_() { start postgres -D data; }
ready() { pg_isready -q; }

new_folder
"${command[@]}" initdb -D data -A trust >>out 2>&1
echo initdb >>starts
cat >>data/postgresql.conf <<CONF
port = $PORT
listen_addresses = '127.0.0.1'
unix_socket_directories = '$PWD/data'
logging_collector = on
CONF

# each argument is a query that succeeds, on a connection of its own
sql() {
    local query
    for query; do
        psql -q -X -v ON_ERROR_STOP=1 -c "$query" >>answers 2>&1 || fail "$query: $(tail -1 answers)"
    done
}

# each is one that fails
wrong() {
    local query
    for query; do
        psql -q -X -v ON_ERROR_STOP=1 -c "$query" >>answers 2>&1 && fail "$query: it did not fail"
    done
    true
}

plain() {
    sql 'CREATE TABLE IF NOT EXISTS note (n int)' 'INSERT INTO note VALUES (1)' 'SELECT * FROM note'
}

requests() {
    plain
    wrong 'SELECT nonsense' 'SET statement_timeout = 200; SELECT pg_sleep(60)' 'SELECT pg_terminate_backend(pg_backend_pid())'
    timeout -s INT 1 psql -q -X -c 'SELECT pg_sleep(60)' >>answers 2>&1 || true
    PGHOST=$PWD/data sql 'SELECT 1'
    sql 'CREATE TEMP TABLE many AS SELECT generate_series(1, 300000) n; CREATE INDEX ON many (n); ANALYZE many;
            SET work_mem = 64; SELECT count(*) FROM (SELECT n FROM many ORDER BY n DESC OFFSET 1) sorted' \
        "COPY note TO '$PWD/data/copy'" "COPY note FROM '$PWD/data/copy'" 'VACUUM FULL note' 'TRUNCATE note' \
        'CREATE DATABASE other' 'DROP DATABASE other' 'LISTEN a; NOTIFY a' 'BEGIN; LOCK note; ROLLBACK'
    sql 'DROP TABLE IF EXISTS big; CREATE TABLE big AS SELECT generate_series(1, 400000) n' \
        'SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
            SET min_parallel_table_scan_size = 0; SELECT count(*) FROM big'
}

maintenance() {
    sql CHECKPOINT VACUUM ANALYZE 'REINDEX DATABASE postgres' 'SELECT pg_switch_wal()'
}

load() {
    pgbench -q -i -s 2 >>answers 2>&1
    pgbench -n -c "$1" -j 2 -T "$2" >>answers 2>&1 || fail "pgbench: $(tail -1 answers)"
}

# transactions CLIENTS EACH: after load
transactions() {
    pgbench -n -c "$1" -j 2 -t "$2" >>answers 2>&1 || fail "pgbench: $(tail -1 answers)"
}

reload() {
    kill -HUP "$(pid)"
    sql 'SELECT pg_reload_conf()' 'SELECT pg_rotate_logfile()'
    plain
}

# Postgres ends its other processes then, and recovers.
backend_dies() {
    rm -f backend
    psql -q -X -A -t -c 'SELECT pg_backend_pid()' -c 'SELECT pg_sleep(60)' >backend 2>/dev/null &
    eventually test -s backend
    kill -KILL "$(cat backend)"
    { wait $! || true; } 2>/dev/null
    eventually grep -q 'all server processes terminated' -r data/log
    eventually psql -q -X -c 'SELECT 1'
    plain
}

# The postmaster dies, its children notice and end; the next start recovers.
crash() {
    stop KILL 137
}

case $part in
start)
    postgres_; stop INT
    ;;
once)
    postgres_; plain; stop INT
    ;;
recipe)
    postgres_; requests; stop INT
    postgres_; requests; reload; requests; maintenance; load 2 5; stop
    postgres_; plain; crash
    postgres_; plain; backend_dies; stop QUIT
    postgres_; plain; maintenance; stop INT
    ;;
everything)
    postgres_; plain; load 8 6; transactions 8 1250; maintenance; requests; stop INT
    postgres_; requests; reload; load 8 4; stop
    postgres_; plain; load 8 3; crash
    postgres_; plain; maintenance; backend_dies; stop QUIT
    postgres_; plain; stop INT
    ;;
esac
