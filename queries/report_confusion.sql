-- Confusion matrix of every setting at one number of shots: counts per run, averaged over seeds.
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $shots: labelled images per class (default: all)
WITH chosen AS (
    SELECT * FROM current_runs
    WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
        AND ($protocol IS NULL OR protocol = $protocol) AND ($shots IS NULL OR coalesce(shots, 0) = CAST($shots AS INTEGER))
), sizes AS (
    SELECT dataset, split_id, protocol, method, model_id, recipe_id, parameters, shots, count(*) AS n_runs FROM chosen GROUP BY ALL
)
SELECT
    c.dataset, c.split_id, c.protocol, c.method, c.model, c.model_id, c.recipe, c.recipe_id, c.parameters, c.shots, s.n_runs, p.label, p.predicted,
    count(*) AS n_total,
    count(*) / any_value(s.n_runs) AS n_mean
FROM chosen c
JOIN predictions p USING (run_id)
JOIN sizes s ON s.dataset = c.dataset AND s.split_id = c.split_id AND s.protocol = c.protocol AND s.method = c.method AND s.model_id = c.model_id AND s.recipe_id = c.recipe_id
    AND s.parameters = c.parameters AND s.shots = c.shots
WHERE p.part = 'test'
GROUP BY ALL
ORDER BY ALL
