. "$(dirname "$0")/common.sh"
pid() { cat data/pid; }
lighttpd_() { start lighttpd -D -f data/lighttpd.conf; }

new_folder
mkdir data/www data/www/list data/uploads
chmod 777 data data/uploads
echo hello >data/www/index.html
head -c 3000000 /dev/zero >data/www/big
head -c 5000000 /dev/zero >upload
cat >data/lighttpd.conf <<CONF
server.modules = ("mod_accesslog", "mod_dirlisting", "mod_alias")
server.document-root = "$PWD/data/www"
server.bind = "127.0.0.1"
server.port = $PORT
server.pid-file = "$PWD/data/pid"
server.errorlog = "$PWD/data/error.log"
accesslog.filename = "$PWD/data/access.log"
server.upload-dirs = ("$PWD/data/uploads")
server.max-request-size = 6000
index-file.names = ("index.html")
dir-listing.activate = "enable"
CONF
[ "$(id -u)" != 0 ] || echo 'server.username = "nobody"' >>data/lighttpd.conf

plain() {
    answers 200 /
    answers 404 /missing
}

# Clients that send no more, and read slowly what they asked for, or go away.
half_closed() {
    python3 -c '
import socket, sys, time
for rest in (1, 0):
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1000)
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.3)
        while rest and client.recv(1 << 20):
            pass' "$PORT"
}

requests() {
    plain
    answers 200 /big
    answers 206 /big -r 5-10
    answers 200 / -I
    answers 200 /list/
    answers 404 /new -T upload
    answers 413 / -H 'Content-Length: 99999999' -d x
    rude /big
    half_closed
}

rotate() {
    mv data/access.log data/access.log.1
    kill -HUP "$(pid)"
    eventually test -e data/access.log
    plain
}

case $part in
start)
    lighttpd_; stop
    ;;
once)
    lighttpd_; plain; stop
    ;;
recipe)
    lighttpd_; requests; stop
    lighttpd_; requests; rotate; together 20 10 200 /; together 5 3 200 /big; stop INT
    lighttpd_; plain; stop
    ;;
everything)
    lighttpd_; plain; stop
    lighttpd_; requests; rotate; together 20 500 200 /; together 60 10 200 /; together 20 5 200 /big; rotate; plain; stop INT
    lighttpd_; requests; stop
    ;;
esac
