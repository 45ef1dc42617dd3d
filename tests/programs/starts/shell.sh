# What a shell does in a project folder: run by dash and by bash, in an empty folder.
set -eu
mkdir -p src/deep 'with blank' && cd src
cat > notes.txt <<END
milk 3
bread 1
tea 12
END
printf '%s\n' one two three > words; echo four >> words; : > empty
test -s words && [ ! -s empty ]
sort -k2 -n notes.txt | head -n 2 | tail -n 1 | cut -d' ' -f1 | tr a-z A-Z | tee upper | wc -l
awk '{sum += $2} END {print sum}' notes.txt; sed -i 's/tea/coffee/' notes.txt; grep -rn coffee . | uniq -c
(sleep 0.05; echo late >> words) & wait $!; (exit 3) || echo "status $?"
sleep 30 & kill $!; wait $! || echo "ended by $?"
trap 'echo cleaned' EXIT; trap 'echo usr1' USR1; kill -USR1 $$
lines=$(wc -l < words); [ "$lines" -eq 5 ]; cat <<END | { read -r first _; echo "$first"; }
$(date +%Y) of $(id -un 2>/dev/null || id -u) on $(uname -s)
END
mkfifo pipe; echo through > pipe & cat pipe; wait; rm pipe
find .. -type f -name '*.txt' -newer empty -exec ls -l {} + ; find . -empty -type f -delete; find . -print0 | xargs -0 -n 1 -P 2 stat -c '%n %s' | sort
cp -a notes.txt deep/copy; mv deep/copy '../with blank/moved'; ln -s ../src/words '../with blank/link'; ln words hard; readlink -f '../with blank/link'
chmod 755 words; chmod u-x,g+w words; touch -d '2020-01-02 03:04' words; cp -r deep deeper; install -m 644 words installed; umask 027; ls -la --color=always . >/dev/null
cd ..; tar -czf all.tar.gz src 'with blank'; mkdir out; tar -xzf all.tar.gz -C out; tar -tvf all.tar.gz | wc -l; gzip -kf src/words; gzip -dc src/words.gz | cmp - src/words
diff -r src out/src || true; diff -u src/notes.txt src/words > change || true; sha256sum src/words > sums; sha256sum -c sums
work=$(mktemp -d); echo x > "$work/x"; dd if=/dev/zero of="$work/zeros" bs=4096 count=16 status=none; split -n 2 "$work/zeros" "$work/part"; head -c 16 /dev/urandom | od -An -tx1 >/dev/null; rm -r "$work"
du -s . >/dev/null; df . >/dev/null; env -i A=1 sh -c 'echo $A'; nproc >/dev/null; expr 6 '*' 7; seq 5 | paste -sd+; timeout 5 true; nice -n 1 true; nohup true >/dev/null 2>&1; ulimit -n >/dev/null; ulimit -S -c 0
timeout 0.2 tail -f src/words >/dev/null || true; yes | head -n 100000 | sort -S 100K | uniq -c; seq 200000 | sort -rn -S 1M -T . | head -n 1; truncate -s 1K big; sync big; stat -f . >/dev/null; hostname >/dev/null 2>&1 || true; tty || true; stty -a >/dev/null 2>&1 || true; date -u >/dev/null; sleep 0.01; time -p true 2>/dev/null || true
printf '#!/bin/sh\necho "ran $1"\n' > run.sh; chmod +x run.sh; ./run.sh here; echo 'echo sourced' > lib.sh; . ./lib.sh; command -v awk; exec 3> third; echo three >&3; exec 3>&-; echo error >&2 2>/dev/null
perl -e 'print "perl ", 1 + 1, "\n"; open(my $f, ">", "p"); print $f "x"; close $f; system("true"); print `echo out`' 2>/dev/null || true
python3 -c 'import subprocess, tempfile, threading, json, sqlite3, ssl
subprocess.run(["sh", "-c", "true"], check=True); t = threading.Thread(target=print); t.start(); t.join(); sqlite3.connect("x.db").execute("create table if not exists t (a)")
with tempfile.TemporaryFile() as f: f.write(b"x")
'
if command -v make >/dev/null; then printf 'all: made\nmade: src/notes.txt\n\tcp $< $@\n' > Makefile; make -s -j2; fi
if command -v node >/dev/null; then node -e 'let sum = 0; for (let i = 0; i < 3e6; i++) sum += i % 7; console.log(sum)'; fi
if command -v cc >/dev/null; then printf 'int main(void) { return 0; }\n' > m.c; cc -O1 -g -o m m.c; ./m; fi
if command -v bash >/dev/null; then bash -c 'cat <(echo substituted); cat <<< here; set -m; sleep 0.05 & wait; a=(1 2); echo ${#a[@]}; coproc cat; echo co >&${COPROC[1]}; read -r -u ${COPROC[0]} got; echo $got; kill $COPROC_PID; { time true; } 2>/dev/null; disown -a; read -t 0.01 x || true; mapfile -t l < src/words; printf "%(%Y)T\n" -1'; fi
rm -rf out 'with blank' src/deeper
echo shell: done
