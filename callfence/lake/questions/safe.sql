-- safe: is it safe to enforce? No new rule and no denied call since :since_ns, on :hosts hosts, and a low chance of another rule
WITH
ordered AS (
    SELECT policy, run, is_incremental, is_complete, row_number() OVER (PARTITION BY policy ORDER BY begun, run) AS place
    FROM (
        SELECT policy, run, min(started) AS begun, max(CASE WHEN incremental THEN 1 ELSE 0 END) AS is_incremental,
            max(CASE WHEN complete THEN 1 ELSE 0 END) AS is_complete
        FROM runs
        WHERE rehearsed = ''
        GROUP BY policy, run
    ) AS each
),
counted AS (
    SELECT policy, count(*) AS all_runs, sum(is_incremental) AS incremental_runs, count(*) - sum(is_complete) AS unfinished,
        max(CASE WHEN is_incremental = 1 THEN place ELSE 1 END) AS since
    FROM ordered
    GROUP BY policy
),
rules AS (
    SELECT observations.policy AS policy, observations.rule AS rule, min(observations.started) AS first_ns,
        min(ordered.place) AS first_place, max(ordered.place) AS last_place
    FROM observations
    JOIN ordered ON ordered.policy = observations.policy AND ordered.run = observations.run
    WHERE observations.rule <> '' AND observations.rehearsed = ''
    GROUP BY observations.policy, observations.rule
),
needed AS (
    SELECT counted.policy AS policy,
        count(DISTINCT CASE WHEN rules.first_place = rules.last_place AND rules.first_place >= counted.since
            THEN rules.first_place END) AS needed,
        count(DISTINCT CASE WHEN rules.first_ns >= :since_ns THEN rules.rule END) AS new_rules,
        max(coalesce(rules.first_place, 0)) AS newest
    FROM counted
    LEFT JOIN rules ON rules.policy = counted.policy
    GROUP BY counted.policy
),
estimated AS (
    SELECT counted.policy AS policy, counted.all_runs AS runs, counted.incremental_runs AS incremental,
        counted.unfinished AS not_to_the_end, needed.new_rules AS new_rules, needed.needed AS needed,
        CASE WHEN counted.since > 1 THEN counted.all_runs - needed.newest ELSE counted.all_runs END AS quiet
    FROM counted
    JOIN needed ON needed.policy = counted.policy
),
logged AS (
    SELECT policy, count(DISTINCT CASE WHEN event = 'denied' THEN line END) AS denied,
        sum(CASE WHEN complete THEN lost ELSE lost + 1 END) AS lost
    FROM (
        SELECT DISTINCT policy, event, line, run, time_ns, lost, complete FROM events WHERE time_ns >= :since_ns
    ) AS records
    GROUP BY policy
),
heard AS (
    SELECT policy, count(DISTINCT host) AS hosts
    FROM (
        SELECT policy, host FROM runs WHERE started >= :since_ns AND rehearsed = ''
        UNION ALL
        SELECT policy, host FROM events WHERE time_ns >= :since_ns AND event <> 'refused'
    ) AS hosts
    WHERE host <> ''
    GROUP BY policy
),
policies AS (
    SELECT policy FROM runs
    UNION DISTINCT
    SELECT policy FROM events
),
judged AS (
    SELECT policies.policy AS policy, coalesce(heard.hosts, 0) AS hosts, coalesce(estimated.runs, 0) AS runs,
        coalesce(estimated.incremental, 0) AS incremental, coalesce(estimated.not_to_the_end, 0) AS not_to_the_end,
        coalesce(estimated.new_rules, 0) AS new_rules, coalesce(logged.denied, 0) AS denied,
        coalesce(logged.lost, 0) AS lost_records,
        CASE WHEN coalesce(estimated.runs, 0) < 2 OR estimated.quiet < 1 THEN 1.0
            ELSE greatest(estimated.needed * 1.0 / estimated.runs, 1.0 - power(0.05, 1.0 / estimated.quiet)) END AS chance
    FROM policies
    LEFT JOIN estimated ON estimated.policy = policies.policy
    LEFT JOIN logged ON logged.policy = policies.policy
    LEFT JOIN heard ON heard.policy = policies.policy
)
SELECT policy, hosts, runs, incremental, not_to_the_end, new_rules, denied, lost_records, chance,
    CASE WHEN hosts < :hosts THEN 'no: too few hosts'
        WHEN new_rules > 0 THEN 'no: new rules'
        WHEN denied > 0 THEN 'no: denied calls'
        WHEN lost_records > 0 THEN 'no: lost records'
        WHEN chance > :chance THEN 'no: record more runs'
        ELSE 'yes' END AS safe
FROM judged
ORDER BY policy
