#!/bin/sh
# daily.sh LAKE POLICY [COMMAND ...]: one proposal a day with what production asked for.  In the git repository of POLICY: what hosts
# denied, or would have denied, in the last DAYS (1) becomes a change of the policy on a branch of its own, with its evidence.
# COMMAND opens the proposal; its last argument is the file with the text.  Without one, `gh pr create` does.
set -eu
lake=$1
policy=$2
shift 2
name=$(basename "$policy" .policy)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
callfence lake ask --days "${DAYS:-1}" --policy "$name" "$lake" log >"$work/log"
if [ ! -s "$work/log" ]; then
    echo "$name: production asked for nothing"
    exit 0
fi
callfence review --log "$work/log" --accept-all "$policy" >/dev/null
if git diff --quiet -- "$policy"; then
    git checkout -q -- "$(dirname "$policy")/.callfence"
    echo "$name: what production asked for is allowed by now"
    exit 0
fi
branch=production-$name-$(date -u +%Y-%m-%d)
git switch -q -c "$branch"
git add -- "$policy"
git check-ignore -q "$(dirname "$policy")/.callfence" || git add -- "$(dirname "$policy")/.callfence"
git commit -q -m "$name: what production asked for"
{
    callfence diff --git HEAD~1 --format md "$policy"
    printf '\nHosts that asked:\n\n```\n'
    callfence lake ask --days "${DAYS:-1}" --policy "$name" "$lake" denied
    printf '```\n'
} >"$work/text"
[ $# -gt 0 ] || set -- gh pr create --head "$branch" --title "$name: what production asked for" --body-file
"$@" "$work/text"
