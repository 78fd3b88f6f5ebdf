-- The comparisons that the runs form: one row per data set, split and protocol.
SELECT
    dataset, split_id, protocol,
    count(*) AS n_runs,
    count(DISTINCT (method, model_id, recipe_id, parameters)) AS n_settings,
    count(DISTINCT seed) AS n_seeds,
    max(n_test) AS n_test,
    min(shots) AS shots_min,
    max(shots) AS shots_max,
    max(exposure_support) AS exposure_support_max,
    max(exposure_val) AS exposure_val_max
FROM current_runs
GROUP BY ALL
ORDER BY n_runs DESC, dataset, split_id, protocol
