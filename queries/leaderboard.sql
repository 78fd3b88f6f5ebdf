-- Mean and spread over seeds of one metric for each setting, best first within each number of shots.
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- $protocol: val-tuned or strict (default: all)
-- Shots are 0 where no image was learned from, and NULL where a share of the training part was (ratio) or all of it
-- (ratio NULL or 1). n_labelled counts the labelled images that a run consulted.
SELECT
    dataset, shots, ratio, method, model, avg(value) AS mean, stddev_samp(value) AS sd, count(*) AS n_seeds, protocol,
    max(n_labelled) AS n_labelled, metric, min(value) AS worst, max(value) AS best,
    avg(exposure_support) AS exposure_support, avg(exposure_val) AS exposure_val, recipe, split_id, model_id,
    recipe_id, parameters
FROM results
WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
    AND ($dataset IS NULL OR dataset = $dataset) AND ($shots IS NULL OR shots = $shots)
    AND ($ratio IS NULL OR ratio = $ratio) AND ($protocol IS NULL OR protocol = $protocol)
GROUP BY ALL
ORDER BY dataset, split_id, shots NULLS LAST, ratio NULLS LAST, mean DESC, method, model_id, recipe_id, protocol, parameters
