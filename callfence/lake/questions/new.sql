-- new: rules that only hosts with a certain version or a newer one needed, in recordings or as denied calls
WITH
versions AS (
    SELECT policy, rule, version_order
    FROM observations
    WHERE rule <> '' AND rehearsed = '' AND version <> ''
    GROUP BY policy, rule, version_order
    UNION ALL
    SELECT policy, line, version_order
    FROM events
    WHERE event = 'denied' AND line <> '' AND version <> ''
    GROUP BY policy, line, version_order
),
new AS (
    SELECT policy, rule
    FROM versions
    GROUP BY policy, rule
    HAVING min(version_order) >= :since_order
),
needs AS (
    SELECT new.policy AS policy, new.rule AS rule, observations.executable AS executable, observations.host AS host,
        observations.version AS version, observations.version_order AS version_order, observations.run AS run,
        observations.started AS needed_ns
    FROM observations
    JOIN new ON new.policy = observations.policy AND new.rule = observations.rule
    WHERE observations.rehearsed = '' AND observations.version <> ''
    UNION ALL
    SELECT new.policy, new.rule, events.executable, events.host, events.version, events.version_order, events.run, events.time_ns
    FROM events
    JOIN new ON new.policy = events.policy AND new.rule = events.line
    WHERE events.event = 'denied' AND events.version <> ''
)
SELECT policy, rule, executable, version, count(DISTINCT host) AS hosts, count(DISTINCT run) AS runs,
    min(needed_ns) AS first_ns
FROM needs
GROUP BY policy, rule, executable, version, version_order
ORDER BY policy, rule, executable, version_order
