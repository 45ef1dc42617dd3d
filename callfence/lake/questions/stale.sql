-- stale: the rules of a policy that no run since :since_ns used, and when one last did
SELECT policy_rules.rule, max(observations.started) AS last_ns, count(DISTINCT observations.host) AS hosts_before
FROM policy_rules
LEFT JOIN policy_calls ON policy_calls.number = policy_rules.number
LEFT JOIN (SELECT call, host, started FROM observations WHERE rehearsed = '') AS observations
    ON observations.call = policy_calls.call
GROUP BY policy_rules.number, policy_rules.rule
HAVING coalesce(max(observations.started), 0) < :since_ns
ORDER BY policy_rules.number
