. "$(dirname "$0")/common.sh"
pid() { cat data/pid; }
sshd_() { start "$(command -v sshd)" -D -e -f "$PWD/data/sshd_config"; }
ssh_() { ssh -F none -p "$PORT" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "$@"; }
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd # its parent's, where it has no privileges

new_folder
ssh-keygen -q -t ed25519 -N '' -f data/host
ssh-keygen -q -t ed25519 -N '' -f data/key
ssh-keygen -q -t ed25519 -N '' -f data/other
cp data/key.pub data/authorized_keys
head -c 5000000 /dev/zero >upload
cat >data/sshd_config <<CONF
Port $PORT
ListenAddress 127.0.0.1
HostKey $PWD/data/host
PidFile $PWD/data/pid
AuthorizedKeysFile $PWD/data/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
MaxStartups 100
CONF

plain() {
    [ "$(ssh_ -i data/key 127.0.0.1 echo hello)" = hello ] || fail "no login"
}

requests() {
    local status=0
    plain
    ssh_ -i data/key 127.0.0.1 exit 3 || status=$?
    [ $status = 3 ] || fail "exit status $status"
    ssh_ -i data/other -o IdentitiesOnly=yes 127.0.0.1 true 2>/dev/null && fail "a login with a wrong key"
    ssh_ -tt -i data/key 127.0.0.1 'stty size' </dev/null >>answers || fail "no terminal"
    ssh_ -i data/key 127.0.0.1 'cat | wc -c' <upload | grep -q 5000000 || fail "lost data"
    echo "put upload $PWD/data/uploaded
ls -l $PWD/data
get $PWD/data/uploaded $PWD/data/back" | sftp -q -F none -P "$PORT" -i data/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o LogLevel=ERROR -b - 127.0.0.1 >>answers || fail "sftp"
    cmp -s upload data/back || fail "another file came back"
    bash -c "exec 3<>/dev/tcp/127.0.0.1/$PORT; printf 'nonsense\r\n' >&3; timeout 5 cat <&3 >/dev/null" || true
}

listened_more_than() { [ "$(grep -c 'Server listening' out)" -gt "$1" ]; }

reload() {
    local before
    before=$(grep -c 'Server listening' out)
    kill -HUP "$(pid)"
    eventually listened_more_than "$before"
    plain
}

# logins CLIENTS EACH: so many at the same time
logins() {
    local number
    for number in $(seq "$2"); do
        seq "$1" | xargs -P "$1" -I CLIENT ssh -F none -p "$PORT" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
            -o LogLevel=ERROR -i data/key 127.0.0.1 true || fail "a login failed"
    done
}

case $part in
start)
    sshd_; stop
    ;;
once)
    sshd_; plain; stop
    ;;
recipe)
    sshd_; requests; stop
    sshd_; requests; reload; requests; logins 5 2; stop
    sshd_; plain; stop
    ;;
everything)
    sshd_; plain; stop
    sshd_; requests; logins 10 10; reload; requests; stop
    ;;
esac
