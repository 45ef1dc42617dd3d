-- Site and example of each call in the earliest run that made it; where records of the run differ, the least comes first.
WITH earliest AS (
    SELECT observations.call AS call, min(places.place) AS place
    FROM observations
    JOIN places ON places.run = observations.run
    GROUP BY observations.call
)
SELECT DISTINCT numbers.number, numbers.call, observations.site, observations.example
FROM observations
JOIN places ON places.run = observations.run
JOIN earliest ON earliest.call = observations.call AND earliest.place = places.place
JOIN numbers ON numbers.call = observations.call
ORDER BY number, site, example
