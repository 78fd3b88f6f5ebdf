-- What the runs cost: time by method, model with its weights, recipe, protocol and device.
-- $dataset: name of one data set (default: all)
SELECT
    method, model, model_id, recipe, recipe_id, protocol, device,
    count(*) AS n_runs,
    round(sum(seconds), 6) AS total_s,
    median(seconds) AS median_s,
    max(seconds) AS longest_s,
    max(n_labelled) AS n_labelled_max
FROM current_runs
WHERE ($dataset IS NULL OR dataset = $dataset)
GROUP BY method, model, model_id, recipe, recipe_id, protocol, device
ORDER BY method, model, model_id, recipe, recipe_id, protocol, device
