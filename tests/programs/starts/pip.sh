# What pip does without a network: a wheel and a source distribution into a virtual environment; in an empty folder.
set -eu
python3 -m venv env
. env/bin/activate
mkdir -p source/small && cd source
cat > pyproject.toml <<'END'
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "small"
version = "1.0"
END
echo 'def main(): print("small runs")' > small/__init__.py
cat > backend.py <<'END'
"""A build backend in one file, so that nothing is to be downloaded."""
import zipfile
META = {"METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n", "WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": "[console_scripts]\nsmall = small:main\n"}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "small-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.write("small/__init__.py")
        record = "small/__init__.py,,\n"
        for file, text in META.items():
            wheel.writestr(f"small-1.0.dist-info/{file}", text)
            record += f"small-1.0.dist-info/{file},,\n"
        wheel.writestr("small-1.0.dist-info/RECORD", record + "small-1.0.dist-info/RECORD,,\n")
    return name
END
cd ..
tar -czf small-1.0.tar.gz --transform 's,^source,small-1.0,' source
pip install -q --no-index --disable-pip-version-check ./small-1.0.tar.gz; small
pip wheel -q --no-index -w wheels ./source; pip uninstall -q -y small; pip install -q --no-index -f wheels small; python -c 'import small; small.main()'
pip list; ! pip install -q --no-index absent 2>/dev/null
echo pip: done
