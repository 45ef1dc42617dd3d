-- The calls that were observed, numbered in the order of a recording.
SELECT observed.call, row_number() OVER (ORDER BY observed.call) - 1 AS number
FROM (SELECT DISTINCT call FROM observations) AS observed
