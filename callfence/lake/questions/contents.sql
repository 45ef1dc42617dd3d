-- contents: what the lake has of each policy, and what is unknown about it
WITH
recorded AS (
    SELECT policy, count(DISTINCT run) AS runs, min(started) AS first_ns, max(started) AS last_ns,
        count(DISTINCT CASE WHEN complete THEN NULL ELSE run END) AS not_to_the_end,
        count(DISTINCT CASE WHEN incremental THEN run END) AS incremental,
        count(DISTINCT CASE WHEN rehearsed <> '' THEN run END) AS rehearsed,
        count(DISTINCT CASE WHEN version = '' THEN run END) AS without_version,
        count(DISTINCT CASE WHEN host = '' THEN run END) AS without_host
    FROM runs
    GROUP BY policy
),
logged AS (
    SELECT policy, count(DISTINCT CASE WHEN event = 'start' THEN run END) AS starts, sum(lost) AS lost_records
    FROM (SELECT DISTINCT policy, event, run, time_ns, lost FROM events) AS records
    GROUP BY policy
),
places AS (
    SELECT policy, host, version FROM runs
    UNION ALL
    SELECT policy, host, version FROM events
),
named AS (
    SELECT policy, count(DISTINCT CASE WHEN host <> '' THEN host END) AS hosts,
        count(DISTINCT CASE WHEN version <> '' THEN version END) AS versions
    FROM places
    GROUP BY policy
)
SELECT named.policy AS policy, named.hosts AS hosts, named.versions AS versions, coalesce(recorded.runs, 0) AS runs, recorded.first_ns, recorded.last_ns,
    coalesce(recorded.not_to_the_end, 0) AS not_to_the_end, coalesce(recorded.incremental, 0) AS incremental,
    coalesce(recorded.rehearsed, 0) AS rehearsed, coalesce(recorded.without_version, 0) AS without_version,
    coalesce(recorded.without_host, 0) AS without_host, coalesce(logged.starts, 0) AS starts,
    coalesce(logged.lost_records, 0) AS lost_records
FROM named
LEFT JOIN recorded ON recorded.policy = named.policy
LEFT JOIN logged ON logged.policy = named.policy
ORDER BY named.policy
