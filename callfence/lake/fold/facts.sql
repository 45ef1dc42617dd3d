-- The different evidence of each call, and the different waits before it.
SELECT DISTINCT numbers.number, observations.evidence, observations.waits
FROM observations
JOIN numbers ON numbers.call = observations.call
ORDER BY number
