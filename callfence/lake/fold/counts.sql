-- How often each run made each call: the greatest count of any record of the run.
SELECT numbers.number, places.place, max(observations.times) AS times
FROM observations
JOIN places ON places.run = observations.run
JOIN numbers ON numbers.call = observations.call
GROUP BY numbers.number, places.place
ORDER BY numbers.number, places.place
