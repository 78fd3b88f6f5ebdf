-- Two models under one method, or two methods on one model: the pairs of their runs on the same support sets.
-- $a: a model or a method (required)
-- $b: another of the same kind (required)
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $method: one method, where models are compared (default: all)
-- $model: one model, where methods are compared (default: all)
-- Models are compared with equal parameters. A model is given by its name, and each of the weights stored under it is
-- compared on its own, or by its model_id.
WITH chosen AS (
    SELECT * FROM current_runs
    WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
        AND ($protocol IS NULL OR protocol = $protocol)
), pairs_of_runs AS (
    SELECT 'model' AS compared, a.method AS held, a, b
    FROM chosen a JOIN chosen b USING (episode_id, recipe_id, protocol, method, parameters)
    WHERE $a IN (a.model, a.model_id) AND $b IN (b.model, b.model_id) AND a.run_id <> b.run_id
        AND ($method IS NULL OR a.method = $method)
    UNION ALL
    SELECT 'method', a.model, a, b
    FROM chosen a JOIN chosen b USING (episode_id, recipe_id, protocol, model_id)
    WHERE a.method = $a AND b.method = $b AND a.run_id <> b.run_id
        AND ($model IS NULL OR $model IN (a.model, a.model_id))
)
SELECT
    a.dataset AS dataset, a.split_id AS split_id, a.protocol AS protocol, compared, held, a.shots AS shots,
    a.ratio AS ratio, a.seed AS seed, a.episode_id AS episode_id, a.recipe AS recipe, a.recipe_id AS recipe_id,
    a.method AS method_a, b.method AS method_b, a.model AS model_a, b.model AS model_b, a.model_id AS model_id_a,
    b.model_id AS model_id_b, a.parameters AS parameters_a, b.parameters AS parameters_b,
    a.text_id AS text_id_a, b.text_id AS text_id_b, a.n_labelled AS n_labelled_a, b.n_labelled AS n_labelled_b, a.run_id AS run_a, b.run_id AS run_b
FROM pairs_of_runs
ORDER BY dataset, split_id, protocol, compared, held, recipe_id, model_id_a, model_id_b, parameters_a, parameters_b,
    text_id_a, text_id_b, shots NULLS LAST, ratio NULLS LAST, seed, episode_id, run_a, run_b
