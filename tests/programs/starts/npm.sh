# What npm does without a network: a package from a tarball, scripts, and a program of node; in an empty folder.
set -eu
mkdir -p small && cd small
printf '{"name": "small", "version": "1.0.0", "main": "index.js", "bin": {"small": "cli.js"}, "scripts": {"postinstall": "node -e \\"process.exit(0)\\""}}\n' > package.json
echo 'exports.double = x => 2 * x' > index.js; printf '#!/usr/bin/env node\nconsole.log(require("./index").double(4))\n' > cli.js; chmod +x cli.js
cd ..; flags='--offline --no-audit --no-fund --no-update-notifier'
npm pack ./small $flags --silent; mkdir -p app && cd app; npm init -y $flags >/dev/null
npm install ../small-1.0.0.tgz $flags --silent; npm pkg set scripts.hello='node app.js && small' scripts.test='node --test'
cat > app.js <<'END'
const fs = require("fs"), { execFileSync } = require("child_process"), { Worker } = require("worker_threads"), zlib = require("zlib"), http = require("http");
fs.writeFileSync("out.txt", "x"); fs.renameSync("out.txt", "out2.txt"); fs.mkdirSync("d", { recursive: true }); console.log(require("small").double(21));
console.log(execFileSync("sh", ["-c", "echo from a shell"]).toString().trim(), zlib.gzipSync("x").length); fs.watch("d").close();
let sum = 0; for (let i = 0; i < 3e6; i++) sum += i % 7;
require("crypto").pbkdf2("a", "b", 1000, 32, "sha256", () => new Worker("1", { eval: true }).on("exit", () => console.log("worker ended")));
END
printf 'require("node:test")("doubles", () => require("assert").equal(require("small").double(2), 4))\n' > app.test.js
npm run hello --silent; npm test $flags >/dev/null; npm ls; npx --no-install small; npm ci $flags --silent; npm version patch --no-git-tag-version >/dev/null; npm uninstall small $flags --silent; npm config get cache >/dev/null; npm cache verify >/dev/null 2>&1 || true
echo npm: done
