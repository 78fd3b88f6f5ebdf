-- What runs cost: seconds in all, per run and per test image, by setting and device.
-- $dataset: one data set (default: all)
SELECT
    dataset, method, model, recipe, protocol, shots, ratio, device, count(*) AS n_runs, sum(seconds) AS total_s,
    avg(seconds) AS mean_s, median(seconds) AS median_s, max(seconds) AS longest_s,
    1000 * sum(seconds) / sum(n_test::DOUBLE) AS per_test_image_ms, max(n_labelled) AS n_labelled,
    split_id, model_id, recipe_id, parameters
FROM current_runs
WHERE ($dataset IS NULL OR dataset = $dataset)
GROUP BY ALL
ORDER BY dataset, split_id, method, model_id, recipe_id, protocol, parameters, shots, ratio, device
