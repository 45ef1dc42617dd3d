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

requests() {
    plain
    answers 200 /big
    answers 206 /big -r 5-10
    answers 200 / -I
    answers 200 /list/
    answers 404 /new -T upload
    answers 413 / -H 'Content-Length: 99999999' -d x
    rude /big
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
