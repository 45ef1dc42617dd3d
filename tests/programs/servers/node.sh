. "$(dirname "$0")/common.sh"
pid() { cat data/pid; }
node_() { start node data/server.js "$PORT" data; }

new_folder
cp "$(dirname "$0")/server.js" data/
mkdir data/store
head -c 5000000 /dev/zero >upload
echo text >text

plain() {
    answers 200 /
    answers 201 /file/a -T text
    answers 200 /file/a
}

requests() {
    plain
    answers 404 /missing
    answers 404 /file/none
    answers 200 /list
    answers 200 /work
    answers 200 /zip
    answers 200 /hash
    answers 200 /name
    answers 502 /up
    answers 201 /file/b -T upload
    answers 200 /file/b -X DELETE
    answers 404 /file/b -X DELETE
    rude /zip
}

# A connection that is kept, idle until the server closes it.
idle() {
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT; printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n' >&3; timeout 20 cat <&3 >/dev/null"
}

rotate() {
    mv data/access.log data/access.log.1
    kill -HUP "$(pid)"
    eventually test -e data/access.log
    plain
}

case $part in
once)
    node_; plain; stop
    ;;
recipe)
    node_; requests; stop
    node_; requests; rotate; idle; together 10 30 200 /; together 4 5 200 /work; together 4 5 200 /zip; stop INT
    ;;
everything)
    node_; plain; stop
    node_; requests; idle; together 50 50 200 /; together 10 6 200 /work; together 20 10 200 /hash; together 20 5 200 /file/a
    rotate; together 20 500 200 /; stop INT
    node_; requests; rotate; stop
    ;;
esac
