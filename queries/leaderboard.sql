-- Mean and spread over seeds of one metric for each setting, best first within each number of shots.
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- $shots: one number of shots (default: all)
-- $protocol: val-tuned or strict (default: all)
-- Shots are 0 where no image was learned from, and NULL where every training label was: neither is a number drawn.
SELECT
    dataset, shots, method, model, recipe, protocol, metric, count(*) AS n_seeds, avg(value) AS mean,
    stddev_samp(value) AS sd, min(value) AS worst, max(value) AS best, avg(exposure_support) AS exposure_support,
    avg(exposure_val) AS exposure_val, split_id, model_id, recipe_id, parameters
FROM results
WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
    AND ($dataset IS NULL OR dataset = $dataset) AND ($shots IS NULL OR shots = $shots)
    AND ($protocol IS NULL OR protocol = $protocol)
GROUP BY ALL
ORDER BY dataset, split_id, shots NULLS LAST, mean DESC, method, model_id, recipe_id, protocol, parameters
