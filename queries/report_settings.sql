-- The stored settings behind the runs: methods with their parameters, versions, devices and time taken.
-- $dataset: name of one data set (default: all)
SELECT
    method, protocol, parameters, versions, commit, device,
    string_agg(DISTINCT model_id, ', ' ORDER BY model_id) AS model_ids,
    string_agg(DISTINCT recipe_id, ', ' ORDER BY recipe_id) AS recipe_ids,
    string_agg(DISTINCT split_id, ', ' ORDER BY split_id) AS split_ids,
    count(*) AS n_runs,
    count(DISTINCT seed) AS n_seeds,
    list_sort(list(DISTINCT shots)) AS shots,
    coalesce(list_sort(list(DISTINCT ratio) FILTER (ratio IS NOT NULL)), []) AS ratios,
    min(n_labelled) AS n_labelled_min,
    max(n_labelled) AS n_labelled_max,
    round(sum(seconds), 3) AS seconds
FROM current_runs
WHERE ($dataset IS NULL OR dataset = $dataset)
GROUP BY method, protocol, parameters, versions, commit, device
ORDER BY ALL
