-- The comparisons that the runs form: one row per data set, split and protocol, those on splits that cut groups last.
WITH cut AS (
    SELECT split_id, group_id, count(DISTINCT part) FILTER (part IN ('train', 'val', 'test')) AS parts
    FROM splits GROUP BY split_id, group_id
), splits_cut AS (
    SELECT split_id, count(*) FILTER (parts > 1) AS n FROM cut GROUP BY split_id
)
SELECT
    dataset, split_id, protocol,
    count(*) AS n_runs,
    count(DISTINCT (method, model_id, recipe_id, parameters)) AS n_settings,
    count(DISTINCT seed) AS n_seeds,
    max(n_test) AS n_test,
    min(shots) AS shots_min,
    max(shots) AS shots_max,
    min(ratio) AS ratio_min,
    max(ratio) AS ratio_max,
    max(exposure_support) AS exposure_support_max,
    max(exposure_val) AS exposure_val_max,
    coalesce(max(n), 0) AS n_groups_cut
FROM current_runs LEFT JOIN splits_cut USING (split_id)
GROUP BY dataset, split_id, protocol
ORDER BY coalesce(max(n), 0) > 0, n_runs DESC, dataset, split_id, protocol
