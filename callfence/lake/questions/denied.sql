-- denied: which hosts denied which calls since :since_ns, or would have without --audit
WITH
violations AS (
    SELECT policy, line, host, run, denied_call, executable, site, phase, verdict, max(risk) AS risk,
        max(times) AS times, min(time_ns) AS first_ns, max(time_ns) AS last_ns
    FROM events
    WHERE event = 'denied' AND time_ns >= :since_ns
    GROUP BY policy, line, host, run, denied_call, executable, site, phase, verdict
),
spread AS (
    SELECT policy, line, count(DISTINCT host) AS hosts
    FROM violations
    GROUP BY policy, line
)
SELECT violations.policy, violations.line, spread.hosts, violations.host, violations.verdict, violations.risk,
    sum(violations.times) AS times, min(violations.first_ns) AS first_ns, max(violations.last_ns) AS last_ns
FROM violations
JOIN spread ON spread.policy = violations.policy AND spread.line = violations.line
GROUP BY violations.policy, violations.line, spread.hosts, violations.host, violations.verdict, violations.risk
ORDER BY violations.policy, spread.hosts DESC, violations.line, violations.host, violations.verdict, violations.risk
