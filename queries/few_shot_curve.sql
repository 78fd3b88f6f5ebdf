-- One metric against shots, or the share of the training part: mean over seeds, its 95 % t interval, spread and range.
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- $model: one model (default: all)
-- $method: one method (default: all)
-- $protocol: val-tuned or strict (default: all)
-- The interval says how the mean varies with the draw of the support set, not with the choice of test images.
WITH curve AS (
    SELECT
        dataset, method, model, recipe, protocol, shots, ratio, metric, count(*) AS n_seeds, avg(value) AS mean,
        stddev_samp(value) AS sd, sd / sqrt(n_seeds) AS se, min(value) AS worst, max(value) AS best,
        max(n_labelled) AS n_labelled, split_id, model_id, recipe_id, parameters
    FROM results
    WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
        AND ($dataset IS NULL OR dataset = $dataset) AND ($model IS NULL OR model = $model)
        AND ($method IS NULL OR method = $method) AND ($protocol IS NULL OR protocol = $protocol)
    GROUP BY ALL
), halved AS (
    SELECT *, n_seeds - 1 AS df, se * student_975(df) AS half_width
    FROM curve
)
SELECT
    dataset, method, model, recipe, protocol, shots, ratio, metric, n_seeds, mean, mean - half_width AS low,
    mean + half_width AS high, sd, se, worst, best, n_labelled, split_id, model_id, recipe_id, parameters
FROM halved
ORDER BY dataset, split_id, method, model_id, recipe_id, protocol, parameters, shots NULLS LAST, ratio NULLS LAST
