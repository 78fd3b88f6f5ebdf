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
), quantile AS (
    -- 0.975 quantiles of Student's t for 1 to 30 degrees of freedom; Cornish and Fisher's series beyond.
    SELECT [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
            2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
            2.0518, 2.0484, 2.0452, 2.0423]::DOUBLE[] AS t
), halved AS (
    SELECT *, n_seeds - 1 AS df, se * coalesce(t[df], 1.95996 + 2.3722 / df + 2.8225 / df ** 2) AS half_width
    FROM curve, quantile
)
SELECT
    dataset, method, model, recipe, protocol, shots, ratio, metric, n_seeds, mean, mean - half_width AS low,
    mean + half_width AS high, sd, se, worst, best, n_labelled, split_id, model_id, recipe_id, parameters
FROM halved
ORDER BY dataset, split_id, method, model_id, recipe_id, protocol, parameters, shots NULLS LAST, ratio NULLS LAST
