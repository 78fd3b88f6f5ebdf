-- Two models, or two methods, on the same episodes: mean difference a - b of a metric for each number of shots.
-- $a: a model or a method (required)
-- $b: another of the same kind (required)
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- Models are compared under one method with equal parameters, methods on one model.
WITH chosen AS (
    SELECT * FROM results
    WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
        AND ($dataset IS NULL OR dataset = $dataset)
), pairs_of_runs AS (
    SELECT a.dataset, a.shots, 'model' AS compared, a.method AS held, a.recipe, a.protocol, a.metric, a.split_id,
        a.recipe_id, a.parameters AS parameters_a, b.parameters AS parameters_b, a.value - b.value AS difference
    FROM chosen a JOIN chosen b USING (episode_id, recipe_id, protocol, method, parameters)
    WHERE a.model = $a AND b.model = $b
    UNION ALL
    SELECT a.dataset, a.shots, 'method', a.model, a.recipe, a.protocol, a.metric, a.split_id,
        a.recipe_id, a.parameters, b.parameters, a.value - b.value
    FROM chosen a JOIN chosen b USING (episode_id, recipe_id, protocol, model_id)
    WHERE a.method = $a AND b.method = $b
)
SELECT
    dataset, shots, held, recipe, protocol, metric, count(*) AS n_pairs, avg(difference) AS mean,
    stddev_samp(difference) AS sd, min(difference) AS worst, max(difference) AS best,
    count(*) FILTER (difference > 0) AS a_wins, count(*) FILTER (difference < 0) AS b_wins,
    count(*) FILTER (difference = 0) AS ties, compared, split_id, recipe_id, parameters_a, parameters_b
FROM pairs_of_runs
GROUP BY ALL
ORDER BY dataset, split_id, compared, held, recipe_id, protocol, parameters_a, parameters_b, shots
