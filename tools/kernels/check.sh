#!/bin/sh
# check.sh few|most: the tests that are run on each kernel, in a copy of the tree.  few: what docs/kernels.md says of each feature;
# most: also the tests of what asks the kernel for much.  What this kernel lacks is skipped with the reason; -rs lists it.
set -eu
set -- "$1" tests/enforcer/files/test_kernels.py tests/enforcer/spawning/test_kernels.py
if [ "$1" = most ]; then
    set -- "$@" tests/enforcer/arming/test_arming.py tests/enforcer/files/test_landlock.py tests/enforcer/files/test_before_the_filter.py \
        tests/enforcer/reporting/test_audit.py tests/enforcer/hosts/test_enforcing.py tests/enforcer/spawning/test_confining.py \
        tests/enforcer/arming/test_phases.py tests/enforcer/test_violations.py tests/enforcer/attacks/test_listener.py tests/programs/test_attacks.py
fi
shift
sh samples/demo.sh /opt/venv/bin build/demo
export CALLFENCE_SLOW=6
exec python3 -m pytest -q -rs -p no:cacheprovider -n "$(nproc)" --dist loadfile --no-loadscope-reorder "$@"
