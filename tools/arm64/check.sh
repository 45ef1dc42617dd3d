#!/bin/sh
# check.sh few|most|all: the tests that are run in the emulated machine, in a copy of the tree: by `.ci/run` in about a
# minute, by `make arm64` in a quarter of an hour, in up to an hour.  What needs no kernel of its own is tested on any machine.
set -eu
slow='not comes_late and not storms and not thousand_calls and not processors' # too slow there for the time that they wait
case $1 in
few)
    set -- tests/tracer/machine \
        'tests/kernel/test_checks.py::test_the_program_notices_nothing[tasks-registers_kept]' \
        'tests/kernel/test_checks.py::test_the_program_notices_nothing[tasks-restarted_calls]' \
        'tests/kernel/test_checks.py::test_the_program_notices_nothing[filters-trapping]' \
        'tests/kernel/test_checks.py::test_a_32_bit_program_notices_nothing[state]' \
        'tests/enforcer/arming/test_arming.py' \
        'tests/enforcer/arming/test_phases.py::test_less_is_allowed_after_the_trigger' \
        'tests/enforcer/test_combinations.py' -k 'not combinations or (errno and reports and entry)'
    ;;
most)
    set -- tests/tracer/machine tests/tracer/late tests/kernel/test_callers.py tests/kernel/test_pointed.py \
        'tests/kernel/test_checks.py::test_the_program_notices_nothing[tasks-registers_kept]' \
        'tests/kernel/test_checks.py::test_the_program_notices_nothing[tasks-restarted_calls]' \
        'tests/kernel/test_checks.py::test_the_program_notices_nothing[filters-trapping]' \
        'tests/kernel/test_checks.py::test_a_32_bit_program_notices_nothing[state]' \
        tests/enforcer/arming/test_arming.py \
        'tests/enforcer/arming/test_phases.py::test_less_is_allowed_after_the_trigger' \
        tests/enforcer/test_violations.py tests/enforcer/hosts/test_enforcing.py tests/programs/test_attacks.py \
        tests/enforcer/test_combinations.py -k 'not combinations or (errno and reports)'
    ;;
all)
    set -- tests/tracer/machine tests/tracer/late tests/kernel/test_callers.py tests/kernel/test_pointed.py \
        tests/kernel/test_checks.py tests/enforcer/arming tests/enforcer/test_combinations.py tests/enforcer/test_shield.py \
        tests/enforcer/test_violations.py tests/enforcer/hosts/test_enforcing.py tests/enforcer/spawning/test_confining.py \
        tests/enforcer/attacks/test_filters.py tests/enforcer/attacks/test_hosts.py tests/enforcer/attacks/test_listener.py \
        tests/programs/test_attacks.py tests/programs/test_files.py tests/programs/test_samples.py \
        tests/callfence/test_api.py tests/callfence/test_confine.py tests/callfence/test_confine_files.py \
        -k "$slow and not what_one_call_needs and not ten_fresh_learns"
    ;;
*)
    sed -n '2,3s/^# //p' "$0" >&2
    exit 2
    ;;
esac
sh samples/demo.sh /opt/venv/bin build/demo
export CALLFENCE_SLOW=6
exec python3 -m pytest -q -p no:cacheprovider -n "$(nproc)" --dist loadfile --no-loadscope-reorder "$@"
