-- Confusion matrices: of the test images of each class, mean count and share over seeds for each class predicted.
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- $model: one model (default: all)
WITH chosen AS (
    SELECT * FROM current_runs
    WHERE ($dataset IS NULL OR dataset = $dataset) AND ($shots IS NULL OR shots = $shots)
        AND ($model IS NULL OR model = $model) AND ($split_id IS NULL OR split_id = $split_id)
        AND ($protocol IS NULL OR protocol = $protocol) AND ($ratio IS NULL OR ratio = $ratio)
), tested AS (
    SELECT run_id, label, predicted FROM predictions WHERE part = 'test'
), truth AS (
    SELECT run_id, label, count(*) AS n_true FROM tested GROUP BY ALL
), cells AS (
    SELECT c.*, t.label, t.n_true, unnest(c.classes) AS predicted FROM chosen c JOIN truth t USING (run_id)
), counted AS (
    SELECT run_id, label, predicted, count(*) AS n FROM tested GROUP BY ALL
)
SELECT
    dataset, shots, ratio, method, model, recipe, protocol, label, predicted, count(*) AS n_seeds,
    avg(coalesce(n, 0)) AS n_images, round(avg(coalesce(n, 0) / n_true), 12) AS share, split_id, model_id,
    recipe_id, parameters
FROM cells LEFT JOIN counted USING (run_id, label, predicted)
GROUP BY ALL
ORDER BY dataset, split_id, shots, ratio, method, model_id, recipe_id, protocol, parameters, label, predicted
