-- Two models, or two methods, on the same episodes: mean difference a - b of a metric for each number of shots.
-- $a: a model or a method (required)
-- $b: another of the same kind (required)
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- Models are compared under one method with equal parameters, methods on one model. A model is given by its name, and
-- each of the weights stored under it is compared on its own, or by its model_id.
WITH chosen AS (
    SELECT * FROM results
    WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
        AND ($dataset IS NULL OR dataset = $dataset)
), pairs_of_runs AS (
    SELECT a.dataset, a.shots, a.ratio, 'model' AS compared, a.method AS held, a.recipe, a.protocol, a.metric, a.split_id,
        a.recipe_id, a.model_id AS model_id_a, b.model_id AS model_id_b, a.parameters AS parameters_a,
        b.parameters AS parameters_b, a.value - b.value AS difference,
        a.n_labelled AS n_labelled_a, b.n_labelled AS n_labelled_b
    FROM chosen a JOIN chosen b USING (episode_id, recipe_id, protocol, method, parameters)
    WHERE $a IN (a.model, a.model_id) AND $b IN (b.model, b.model_id) AND a.run_id <> b.run_id
    UNION ALL
    SELECT a.dataset, a.shots, a.ratio, 'method', a.model, a.recipe, a.protocol, a.metric, a.split_id,
        a.recipe_id, a.model_id, b.model_id, a.parameters, b.parameters, a.value - b.value,
        a.n_labelled, b.n_labelled
    FROM chosen a JOIN chosen b USING (episode_id, recipe_id, protocol, model_id)
    WHERE a.method = $a AND b.method = $b AND a.run_id <> b.run_id
)
SELECT
    dataset, shots, ratio, held, recipe, protocol, metric, count(*) AS n_pairs, avg(difference) AS mean,
    stddev_samp(difference) AS sd, min(difference) AS worst, max(difference) AS best,
    count(*) FILTER (difference > 0) AS a_wins, count(*) FILTER (difference < 0) AS b_wins,
    count(*) FILTER (difference = 0) AS ties, max(n_labelled_a) AS n_labelled_a,
    max(n_labelled_b) AS n_labelled_b, compared, split_id, recipe_id, model_id_a, model_id_b, parameters_a,
    parameters_b
FROM pairs_of_runs
GROUP BY ALL
ORDER BY dataset, split_id, compared, held, recipe_id, protocol, model_id_a, model_id_b, parameters_a, parameters_b, shots NULLS LAST,
    ratio
