-- log: what was denied since :since_ns, or would have been without --audit, once for each line, executable and place of the call
SELECT policy, line, executable, site, phase, count(DISTINCT host) AS hosts, min(record) AS record
FROM events
WHERE event = 'denied' AND time_ns >= :since_ns
GROUP BY policy, line, executable, site, phase
ORDER BY policy, line, executable, site, phase
