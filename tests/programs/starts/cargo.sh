# What cargo does without a network: a crate without dependencies; in an empty folder.
set -eu
export CARGO_NET_OFFLINE=true
cargo new -q --vcs none small && cd small
cat > src/main.rs <<'END'
use std::{env, fs, process::Command, thread};
fn main() {
    fs::write("out.txt", "x").unwrap();
    let t = thread::spawn(|| 42);
    println!("{} {}", t.join().unwrap(), env::args().count());
    assert!(Command::new("sh").args(["-c", "true"]).status().unwrap().success());
}
#[test]
fn adds() { assert_eq!(1 + 1, 2); }
END
echo 'fn main() { println!("cargo::rustc-env=BUILT=yes"); }' > build.rs
cargo build -q; cargo run -q -- a b; cargo test -q; cargo check -q; cargo build -q --release; echo '// changed' >> src/main.rs; cargo build -q; cargo metadata --format-version 1 >/dev/null; cargo tree; cargo clean -q; ! cargo build -q --bin absent 2>/dev/null
echo cargo: done
