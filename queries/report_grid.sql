-- What the runs cover: for each setting of a comparison and number of shots or share, its seeds and its support sets.
SELECT
    dataset, split_id, protocol, method, model_id, recipe_id, parameters,
    shots,
    ratio,
    count(*) AS n_runs,
    coalesce(list_sort(list(DISTINCT seed) FILTER (seed IS NOT NULL)), []) AS seeds,
    coalesce(list_sort(list(DISTINCT episode_id) FILTER (episode_id IS NOT NULL)), []) AS episode_ids
FROM current_runs
GROUP BY ALL
ORDER BY dataset, split_id, protocol, method, model_id, recipe_id, parameters, shots, ratio
