-- The runs of all recordings, each once: the most complete record of it, and its place among them.
SELECT run, row_number() OVER (ORDER BY started, run) - 1 AS place, record
FROM (
    SELECT run, started, record, row_number() OVER (PARTITION BY run ORDER BY completeness DESC) AS choice
    FROM runs
) AS records
WHERE choice = 1
