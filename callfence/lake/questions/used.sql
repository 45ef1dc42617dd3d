-- used: the rules of a policy that runs since :since_ns used
SELECT policy_rules.rule, count(DISTINCT observations.host) AS hosts, count(DISTINCT observations.run) AS runs,
    max(observations.started) AS last_ns
FROM policy_rules
JOIN policy_calls ON policy_calls.number = policy_rules.number
JOIN observations ON observations.call = policy_calls.call
WHERE observations.started >= :since_ns AND observations.rehearsed = ''
GROUP BY policy_rules.number, policy_rules.rule
ORDER BY policy_rules.number
