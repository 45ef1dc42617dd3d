#!/bin/sh
# build.sh FOLDER: builds what a release has, from what is committed or would be (`git add -A`): wheel, sdist, zipapp, Debian
# package and bill of materials.  Two builds of one commit are equal.  Without dpkg-buildpackage there is no Debian package.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-$here/.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$here" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
mkdir "$scratch/callfence"
git -C "$here" ls-files -z --cached --others --exclude-standard | (cd "$here" && xargs -0 tar cf - --ignore-failed-read) |
    tar xf - -C "$scratch/callfence"
cd "$scratch/callfence"
rm -f "$out"/callfence[-_.]*
"$python" -m build --no-isolation --outdir "$out" . >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
# What it needs goes in as well, all of it pure Python; the first start unpacks it to ~/.shiv (SHIV_ROOT).
"$python" -m pip wheel --quiet --disable-pip-version-check --wheel-dir "$scratch/wheels" "$out"/callfence-*.whl
"$python" -m shiv --quiet --reproducible --console-script callfence --python '/usr/bin/env python3' \
    --output-file "$out/callfence.pyz" --no-index --find-links "$scratch/wheels" callfence
# What is in an installation by pip, as a bill of materials (CycloneDX).
"$python" -m venv --without-pip "$scratch/venv"
"$python" -m pip --python "$scratch/venv/bin/python" install --quiet --disable-pip-version-check --no-index \
    --find-links "$scratch/wheels" callfence
"$python" -m cyclonedx_py environment --output-reproducible --output-format JSON --output-file "$out/sbom.json" \
    "$scratch/venv/bin/python"
if command -v dpkg-buildpackage >/dev/null; then
    dpkg-buildpackage --no-sign --build=binary >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
    mv ../callfence_* "$out"
fi
