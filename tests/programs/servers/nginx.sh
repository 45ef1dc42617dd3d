. "$(dirname "$0")/common.sh"
UPSTREAM=${UPSTREAM-$((PORT + 1))} # empty: nginx passes nothing on to another server
proxy=${UPSTREAM:+proxy_pass http://127.0.0.1:$UPSTREAM;}
pid() { cat data/nginx.pid; }
nginx_() { start nginx -p data -c nginx.conf -e error.log; }

new_folder
mkdir data/tmp data/www data/store
chmod 777 data/store
echo hello >data/www/index.html
head -c 3000000 /dev/zero >data/www/big
head -c 5000000 /dev/zero >upload
: >data/www/secret
chmod 0 data/www/secret
cat >data/nginx.conf <<CONF
daemon off;
worker_processes 2;
user nobody nogroup;
pid nginx.pid;
error_log error.log notice;
events { worker_connections 512; }
http {
    access_log access.log;
    client_body_temp_path tmp/body; proxy_temp_path tmp/proxy; fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi; scgi_temp_path tmp/scgi;
    client_max_body_size 10m;
    sendfile on;
    gzip on;
    server {
        listen 127.0.0.1:$PORT;
        root www;
        location /list/ { alias www/; autoindex on; }
        location /up/ { $proxy }
        location /up/slow { $proxy proxy_read_timeout 1s; }
    }
}
CONF

upstream() {
    python3 -c '
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(60 * self.path.endswith("slow"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes(400_000))
    do_POST = do_PUT = do_GET
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer.request_queue_size = 128
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()' "$UPSTREAM" 2>/dev/null &
    upstream=$!
    eventually bash -c ": <>/dev/tcp/127.0.0.1/$UPSTREAM"
}

no_upstream() {
    kill $upstream
    { wait $upstream || true; } 2>/dev/null
    upstream=
}

plain() {
    answers 200 /
    answers 404 /missing
}

requests() {
    plain
    answers 200 /big
    answers 206 /big -r 5-10
    answers 200 / -I
    answers 200 /list/ --compressed
    [ "$(id -u)" != 0 ] || answers 403 /secret
    answers 405 / -X POST
    answers 413 / -H 'Content-Length: 99999999' -d x
    rude /big
    [ -z "$UPSTREAM" ] || passed_on
}

passed_on() {
    answers 502 /up/
    upstream
    answers 200 /up/
    answers 200 /up/ -T upload
    answers 504 /up/slow
    no_upstream
    answers 502 /up/
}

reload() {
    replaced kill -HUP "$(pid)"
    plain
}

# Each worker opens the new log when it gets to it; until then it writes to the old one.
logged() {
    plain
    test -s data/access.log
}

rotate() {
    mv data/access.log data/access.log.1
    kill -USR1 "$(pid)"
    eventually logged
}

bad_reload() {
    cp data/nginx.conf data/good
    echo 'nonsense;' >>data/nginx.conf
    kill -HUP "$(pid)"
    eventually grep -q nonsense data/error.log
    mv data/good data/nginx.conf
    plain
}

worker_dies() {
    kill -KILL "$(pgrep -n -P "$(pid)")"
    eventually grep -q 'exited on signal 9' data/error.log
    plain
}

# No process traces the workers, as under enforce once they are in their phase.
untraced() {
    local worker workers
    workers=$(pgrep -P "$(pid)")
    for worker in $workers; do
        grep -qx $'TracerPid:\t0' "/proc/$worker/status" || return 1
    done
    [ "$(wc -w <<<"$workers")" = 2 ]
}

# Workers that a reload starts, and that replace dead ones, pass on requests as the first ones did; none gets lost.
reloads() {
    local round load
    for round in $(seq "$1"); do
        eventually untraced
        together 20 10 200 /up/ &
        load=$!
        replaced kill -HUP "$(pid)"
        wait $load || fail "round $round: not all requests were answered"
    done
    eventually untraced
}

master_is_not() { [ -s data/nginx.pid ] && [ "$(pid)" != "$1" ]; }

# A daemon, which starts the binary anew while it serves; the new one goes on with its sockets.
upgrade() {
    local old nginx
    nginx=$(command -v nginx)
    sed 's/^daemon off/daemon on/' data/nginx.conf >data/daemon.conf
    "${command[@]}" "$nginx" -p data -c daemon.conf -e error.log </dev/null >>out 2>&1 &
    server=$!
    echo nginx >>starts
    eventually ready
    eventually test -s data/nginx.pid
    plain
    old=$(pid)
    kill -USR2 "$old"
    eventually master_is_not "$old"
    plain
    kill -QUIT "$old"
    eventually test ! -e "/proc/$old/exe"
    plain
    old=$(pid)
    kill -QUIT "$old"
    ended 0
    eventually test ! -e "/proc/$old/exe"
}

case $part in
start)
    nginx_; stop QUIT
    ;;
once)
    nginx_; plain; stop QUIT
    ;;
roles) # nothing is passed on after the reload
    nginx_; requests; reload; worker_dies; together 20 10 200 /; stop QUIT
    ;;
reloads)
    nginx_; upstream; worker_dies; reloads "${ROUNDS:-10}"; no_upstream; stop QUIT
    ;;
recipe)
    nginx_; requests; stop QUIT
    nginx_; requests; reload; requests; rotate; bad_reload; worker_dies; together 20 10 200 /; together 5 3 200 /big; stop TERM
    nginx_; plain; stop INT
    upgrade
    ;;
everything)
    nginx_; plain; stop QUIT
    nginx_; requests; reload; rotate; plain; together 20 500 200 /; together 60 10 200 /; together 20 5 200 /big
    reload; rotate; worker_dies; stop QUIT
    nginx_; requests; stop TERM
    nginx_; plain; stop INT
    upgrade
    ;;
esac
