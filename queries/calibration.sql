-- Reliability: in equal-width bins of confidence, how often the class said was right; seeds pooled, with the ECE.
-- $bins: number of bins (default: 10)
-- $dataset: one data set (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- $model: one model (default: all)
WITH said AS (
    SELECT
        r.dataset, r.shots, r.ratio, r.method, r.model, r.recipe, r.protocol, r.split_id, r.model_id, r.recipe_id,
        r.parameters,
        list_max(p.probabilities) AS confidence, p.predicted = p.label AS correct,
        coalesce(CAST($bins AS INTEGER), 10) AS n_bins
    FROM predictions p JOIN current_runs r USING (run_id)
    WHERE p.part = 'test' AND ($dataset IS NULL OR r.dataset = $dataset)
        AND ($shots IS NULL OR r.shots = $shots) AND ($model IS NULL OR r.model = $model)
        AND ($ratio IS NULL OR r.ratio = $ratio)
), binned AS (
    SELECT
        dataset, shots, ratio, method, model, recipe, protocol, split_id, model_id, recipe_id, parameters, n_bins,
        greatest(CAST(ceil(confidence * n_bins) AS INTEGER), 1) AS bin, count(*) AS n, avg(confidence) AS confidence,
        avg(correct::INTEGER) AS accuracy
    FROM said GROUP BY ALL
)
SELECT
    dataset, shots, ratio, method, model, recipe, protocol, bin, (bin - 1) / n_bins AS above, bin / n_bins AS up_to, n,
    confidence, accuracy, accuracy - confidence AS gap,
    sum(n * abs(accuracy - confidence)) OVER setting / sum(n) OVER setting AS ece,
    split_id, model_id, recipe_id, parameters
FROM binned
WINDOW setting AS (PARTITION BY dataset, shots, ratio, method, protocol, split_id, model_id, recipe_id, parameters)
ORDER BY dataset, split_id, shots, ratio, method, model_id, recipe_id, protocol, parameters, bin
