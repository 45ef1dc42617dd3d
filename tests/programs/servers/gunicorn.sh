. "$(dirname "$0")/common.sh"
pid() { cat data/pid; }
gunicorn_() {
    start gunicorn -b "127.0.0.1:$PORT" -w 3 --threads 4 -p pid --chdir data --graceful-timeout 3 --access-logfile access.log \
        --error-logfile error.log notes:app
}

new_folder
cp "$(dirname "$0")/notes.py" data/
head -c 5000000 /dev/zero >upload
: >empty

plain() {
    answers 201 / -d text=milk
    answers 200 /
}

requests() {
    plain
    answers 404 /missing
    answers 500 /fail
    answers 400 / -d x=1
    answers 405 / -X DELETE
    answers 201 /upload -F 'file=@upload;filename=a'
    answers 201 /upload -F 'file=@empty;filename=b'
    answers 200 /upload/a
    answers 206 /upload/a -r 5-10
    rude /upload/a
}

reload() {
    replaced kill -HUP "$(pid)"
    plain
}

rotate() {
    mv data/access.log data/access.log.1
    kill -USR1 "$(pid)"
    eventually test -e data/access.log
    plain
}

workers_are() { [ "$(pgrep -c -P "$(pid)")" = "$1" ]; }

workers() {
    kill -TTIN "$(pid)"
    eventually workers_are 4
    plain
    kill -TTOU "$(pid)"
    eventually workers_are 3
    plain
    kill -KILL "$(pgrep -n -P "$(pid)")"
    eventually grep -q SIGKILL data/error.log
    plain
}

case $part in
start)
    gunicorn_; stop
    ;;
once)
    gunicorn_; plain; stop
    ;;
recipe)
    gunicorn_; requests; stop
    gunicorn_; requests; reload; requests; rotate; workers; together 20 3 201 / -d text=eggs
    together 4 1 201 /upload -F 'file=@upload;filename=c'; stop INT
    gunicorn_; plain; stop QUIT
    ;;
everything)
    gunicorn_; plain; stop
    gunicorn_; requests; reload; rotate; together 200 1 201 / -d text=eggs; together 12 1 201 /upload -F 'file=@upload;filename=c'
    workers; reload; together 30 10 201 / -d text=ham; together 20 500 404 /missing; stop
    gunicorn_; requests; stop INT
    gunicorn_; plain; stop QUIT
    ;;
esac
