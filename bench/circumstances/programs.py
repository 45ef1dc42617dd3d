"""The programs: each is learned on the file `input`, and run in every circumstance.  Data only.

`seen` programs may be looked at while callfence is changed; the others are only counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "sources"
LINES = "seq $N | sed 's/.*/& line & of $N, \\xc3\\xa4/' >\"$FILE\""
"""Makes a file of N lines of text."""
NUMBERS = "seq $N >\"$FILE\""
JSON = '''seq $N | sed 's/.*/{"n": &, "name": "n &"},/; 1s/^/[/; $s/,$/]/' >"$FILE"'''
SQL = (
    "{ echo 'CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT); BEGIN;'; "
    "seq $N | sed 's/.*/INSERT INTO t (b) VALUES (hex(&));/'; echo 'COMMIT; SELECT count(*), max(b) FROM t;'; } >\"$FILE\""
)
SUMS = "seq $N | sed 's/.*/& * & + 1/' >\"$FILE\""
RULES = "{ printf 'all:'; seq -f ' out/%g' -s '' $((N < 40 ? N : 40)); echo; " \
    "printf 'out/%%:\\n\\t@mkdir -p out; seq $* >$@\\n'; } >\"$FILE\""
C = "{ echo '#include <stdio.h>'; seq $((N < 3000 ? N : 3000)) | sed 's/.*/int f&(int x) { return x + &; }/'; } >\"$FILE\""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    command: str
    """Shell words; `input` in them is replaced by the names of other files."""
    package: str
    """The Debian package that has it."""
    make: str = LINES
    """Shell commands that make $FILE, of size $N."""
    setup: str = ""
    """Shell commands run once in the folder, after the files are there."""
    wrong: str = "--no-such-option"
    """Arguments that are a mistake, in the place of all others."""
    waits: str = ""
    """The command that reads standard input; signals are sent while it waits.  Empty if there is none."""


_ALL = (
    Program("ls", "ls -l input", "coreutils"),
    Program("cat", "cat input", "coreutils", waits="cat"),
    Program("sort", "sort -n input", "coreutils", waits="sort"),
    Program("grep", "grep -n 1 input", "grep", waits="grep 1"),
    Program("sed", "sed -i s/1/x/ input", "sed", waits="sed s/1/x/"),
    Program("gawk", "gawk '{ s += $1 } END { print s }' input", "gawk", waits="gawk '{ print }'"),
    Program("find", "find . -name 'in*' -newer / -size -1000k", "findutils"),
    Program("tar", "tar czf out.tgz input", "tar", waits="tar tf -"),
    Program("gzip", "gzip -k input", "gzip", waits="gzip -c"),
    Program("xz", "xz -k input", "xz-utils", waits="xz -c"),
    Program("zstd", "zstd -q input", "zstd", waits="zstd -c"),
    Program("cp", "cp -a input copy", "coreutils"),
    Program("rsync", "rsync -a input copy", "rsync"),
    Program("sha256sum", "sha256sum input", "coreutils", waits="sha256sum"),
    Program("diff", "diff input plan", "diffutils", setup="seq 100 >plan", waits="diff - plan"),
    Program("jq", "jq -c 'map(.n) | add' input", "jq", JSON, waits="jq ."),
    Program("sqlite3", "sqlite3 -batch t.db '.read input'", "sqlite3", SQL, waits="sqlite3 t.db"),
    Program("python3", "python3 {sources}/report.py input", "python3", waits="python3 {sources}/report.py -"),
    Program("perl", "perl -ne 'print if /1/' input", "perl", waits="perl -ne 'print if /1/'"),
    Program("bash", "bash {sources}/backup.sh input", "bash", waits="bash {sources}/backup.sh -"),
    Program("sh pipeline", "sh -c 'sort input | uniq -c | sort -rn | head -n 5'", "dash", wrong="-c 'sort --no-such-option'"),
    Program("lua", "lua5.4 {sources}/report.lua input", "lua5.4", waits="lua5.4 {sources}/report.lua -"),
    Program("make", "make -j2 -f input", "make", RULES),
    Program("gcc", "gcc -O1 -c -o out.o -x c input", "gcc", C),
    Program(
        "git", "sh -c 'git add input && git commit -qm x && git log --stat && git status'", "git", setup="git init -q .",
        wrong="-c 'git add --no-such-option'",
    ),
    Program("openssl", "openssl dgst -sha256 input", "openssl", wrong="dgst -no", waits="openssl dgst -sha256"),
    Program("m4", "m4 input", "m4", waits="m4"),
    Program("bc", "bc -q input", "bc", SUMS, waits="bc -q"),
    Program("curl", "curl -sS file://{folder}/input", "curl"),
    Program("ripgrep (Rust)", "rg -n 1 input", "ripgrep", waits="rg 1 -"),
    Program("fd (Rust)", "fdfind in", "fd-find"),
    Program("gron (Go)", "gron input", "gron", JSON, waits="gron -"),
    Program("restic (Go)", "restic -q -r repo backup input", "restic", setup="restic -q -r repo init"),
    Program("node", "node {sources}/report.js input", "nodejs", waits="node {sources}/report.js -"),
    Program("C++ futures", "{built}/futures input", "g++", waits="{built}/futures -"),
    Program("static C", "{built}/static input", "gcc", waits="{built}/static -"),
    Program("busybox", "busybox sh -c 'busybox sort input | busybox md5sum'", "busybox-static", wrong="no-such-applet"),
    Program("patch", "patch -s input change", "patch", setup="seq 5 >change; diff -u input /dev/null >change || true"),
)
PROGRAMS = {program.name: program for program in _ALL}


@dataclass(frozen=True, slots=True)
class Server:
    """Learned with `use`, then started, used and stopped in every circumstance; it listens on port $PORT of the loopback."""

    name: str
    command: str
    package: str
    use: str
    """Shell commands of an ordinary client."""
    other: str
    """Other requests: what is not there, errors, larger and smaller ones."""
    load: str
    """Many clients at once."""
    setup: str = ""
    stop: str = "TERM"
    """The signal that ends it in order."""
    wrong: str = "--no-such-option"
    signals: tuple[str, ...] = ("HUP", "USR1")
    """What an operator sends it while it serves."""
    user: bool = False
    """Always another user: it refuses to be root."""


NGINX = """\
daemon off; worker_processes 2; pid nginx.pid; error_log stderr; master_process on;
events { worker_connections 64; }
http { access_log access.log; client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
  uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi; client_max_body_size 20m;
  server { listen 127.0.0.1:$PORT; root .;
    location /up { proxy_pass http://127.0.0.1:1; } location /hello { return 200 hi; } } }
"""
URL = "http://127.0.0.1:$PORT"
PARALLEL = "seq 200 | xargs -P 20 -I% curl -sS -m 20 -o /dev/null"
SERVERS = {
    server.name: server
    for server in (
        Server(
            "gunicorn, Flask, SQLite",
            "gunicorn -w 2 -b 127.0.0.1:$PORT --worker-tmp-dir . --chdir {folder} app:app",
            "gunicorn python3-flask",
            use=f"curl -sS -d text=hello {URL}/notes; curl -sS {URL}/; curl -sS {URL}/notes/1",
            other=f"curl -sS {URL}/nothing; curl -sS -F file=@large {URL}/notes; curl -sS -X PUT {URL}/; curl -sSI {URL}/",
            load=f"{PARALLEL} -d text=% {URL}/notes",
            setup="cp {sources}/app.py .",
        ),
        Server(
            "node server", "node {sources}/server.js", "nodejs",
            use=f"curl -sS {URL}/; curl -sS -d text=hello {URL}/",
            other=f"curl -sS {URL}/nothing; curl -sS --data-binary @large {URL}/; curl -sSI {URL}/",
            load=f"{PARALLEL} {URL}/",
            setup="seq 100 >page.txt",
            signals=("HUP",),
        ),
        Server(
            "redis", "redis-server --port $PORT --bind 127.0.0.1 --dir {folder} --save 900 1", "redis-server redis-tools",
            use="redis-cli -p $PORT set a 1; redis-cli -p $PORT get a; redis-cli -p $PORT lpush l 1 2 3",
            other="redis-cli -p $PORT nonsense; redis-cli -p $PORT bgsave; sleep 0.3; redis-cli -p $PORT info >/dev/null; "
            "redis-cli -p $PORT config set appendonly yes; redis-cli -p $PORT set b $(head -c 100000 large | tr -d '\\n ' )",
            load="redis-benchmark -p $PORT -q -n 2000 -c 20 -t set,get,lpush",
            signals=(),
        ),
        Server(
            "nginx", "nginx -p {folder} -c nginx.conf -e stderr", "nginx",
            use=f"curl -sS {URL}/hello; curl -sS {URL}/input",
            other=f"curl -sS {URL}/nothing; curl -sS {URL}/up; curl -sS --data-binary @large {URL}/up; "
            f"curl -sSI -r 0-9 {URL}/large",
            load=f"{PARALLEL} {URL}/large",
            setup=f"mkdir -p tmp; cat >nginx.conf <<END\n{NGINX}END\n",
            stop="QUIT",
            signals=("HUP", "USR1"),
        ),
        Server(
            "postgres", "{postgres}/postgres -D {folder}/db -p $PORT -k {folder} -c listen_addresses=127.0.0.1", "postgresql",
            use="psql -qAt -c 'create table t (a int); insert into t values (1); select * from t'",
            other="psql -c 'select nothing'; psql -qAt -c 'create temp table x as select generate_series(1, 200000); "
            "select count(*) from (select * from x order by 1 desc) s' -c checkpoint -c 'drop table if exists t' -c 'vacuum'",
            load="pgbench -qi -s 1 && pgbench -c 8 -T 2",
            setup="{postgres}/initdb -D db --no-sync -A trust >/dev/null",
            stop="INT",
            signals=("HUP",),
            user=True,
        ),
        Server(
            "python3 http.server", "python3 -m http.server --bind 127.0.0.1 $PORT", "python3",
            use=f"curl -sS {URL}/input",
            other=f"curl -sS {URL}/nothing; curl -sS {URL}/; curl -sS -d x {URL}/; curl -sSI {URL}/large",
            load=f"{PARALLEL} {URL}/large",
            stop="INT",
            signals=(),
        ),
    )
}
SEEN = frozenset([*list(PROGRAMS)[::2], *list(SERVERS)[::2]])
"""The half that may be looked at."""
