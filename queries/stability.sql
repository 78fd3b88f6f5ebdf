-- How firmly each test image is classified: how often runs disagree about it, beside lesion, artefacts and group.
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $model: one model (default: all)
-- $method: one method (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- flip_rate_seeds: share of the pairs of runs that differ in the support set alone and say different classes.
-- flip_rate_models: the same of pairs that differ in the model alone. NULL where there is no such pair.
WITH said AS (
    SELECT
        r.dataset, r.split_id, r.protocol, r.shots, r.ratio, r.method, r.model_id, r.recipe_id, r.parameters,
        r.episode_id, p.image_id, p.label, p.predicted
    FROM predictions p JOIN current_runs r USING (run_id)
    WHERE p.part = 'test' AND ($dataset IS NULL OR r.dataset = $dataset)
        AND ($split_id IS NULL OR r.split_id = $split_id) AND ($protocol IS NULL OR r.protocol = $protocol)
        AND ($model IS NULL OR r.model = $model) AND ($method IS NULL OR r.method = $method)
        AND ($shots IS NULL OR r.shots = $shots) AND ($ratio IS NULL OR r.ratio = $ratio)
    QUALIFY row_number() OVER (  -- of runs that differ in their text tower alone, the newest
        PARTITION BY p.image_id, r.split_id, r.episode_id, r.protocol, r.method, r.model_id, r.recipe_id, r.parameters
        ORDER BY r.finished_at DESC NULLS LAST, r.run_id DESC) = 1
), votes AS (
    SELECT dataset, split_id, protocol, shots, ratio, image_id, label, predicted, count(*) AS n FROM said GROUP BY ALL
), images_said AS (
    SELECT
        dataset, split_id, protocol, shots, ratio, image_id, label, sum(n) AS n_runs,
        coalesce(sum(n) FILTER (predicted <> label), 0) / n_runs AS share_wrong,
        arg_max(predicted, (n, predicted)) AS mostly_said
    FROM votes GROUP BY ALL
), of_seeds AS (  -- of n runs, k of one class: k (k - 1) of the n (n - 1) ordered pairs agree on it
    SELECT dataset, split_id, protocol, shots, ratio, image_id, method, model_id, recipe_id, parameters, predicted,
        count(*) AS k
    FROM said GROUP BY ALL
), within_setting AS (
    SELECT dataset, split_id, protocol, shots, ratio, image_id, sum(k) * (sum(k) - 1) AS pairs,
        sum(k * (k - 1)) AS equal
    FROM of_seeds GROUP BY dataset, split_id, protocol, shots, ratio, image_id, method, model_id, recipe_id, parameters
), seeds AS (
    SELECT dataset, split_id, protocol, shots, ratio, image_id, 1 - sum(equal) / nullif(sum(pairs), 0) AS flip_rate
    FROM within_setting GROUP BY ALL
), of_models AS (
    SELECT dataset, split_id, protocol, shots, ratio, image_id, method, recipe_id, parameters, episode_id, predicted,
        count(*) AS k
    FROM said GROUP BY ALL
), within_episode AS (
    SELECT dataset, split_id, protocol, shots, ratio, image_id, sum(k) * (sum(k) - 1) AS pairs,
        sum(k * (k - 1)) AS equal
    FROM of_models
    GROUP BY dataset, split_id, protocol, shots, ratio, image_id, method, recipe_id, parameters, episode_id
), models_said AS (
    SELECT dataset, split_id, protocol, shots, ratio, image_id, 1 - sum(equal) / nullif(sum(pairs), 0) AS flip_rate
    FROM within_episode GROUP BY ALL
), marked AS (  -- the artefacts of the picture that the runs saw; of several recipes, the most
    SELECT p.image_id, max(json_array_length(p.artefacts)) AS n_artefacts
    FROM preprocessed p WHERE p.recipe_id IN (SELECT recipe_id FROM said) GROUP BY p.image_id
), grouped AS (
    SELECT split_id, image_id, group_id, count(*) OVER (PARTITION BY split_id, group_id) AS group_size FROM splits
)
SELECT
    i.dataset, i.shots, i.ratio, i.protocol, i.image_id, i.label, i.mostly_said, i.n_runs::BIGINT AS n_runs,
    round(i.share_wrong, 12) AS share_wrong, round(s.flip_rate, 12) AS flip_rate_seeds,
    round(m.flip_rate, 12) AS flip_rate_models, k.area_px AS lesion_area_px,
    k.area_px / (f.width_px::DOUBLE * f.height_px) AS lesion_share, a.n_artefacts, g.group_id, g.group_size, i.split_id
FROM images_said i
JOIN seeds s ON (s.dataset, s.split_id, s.protocol, s.image_id) = (i.dataset, i.split_id, i.protocol, i.image_id)
    AND s.shots IS NOT DISTINCT FROM i.shots AND s.ratio IS NOT DISTINCT FROM i.ratio
JOIN models_said m ON (m.dataset, m.split_id, m.protocol, m.image_id) = (i.dataset, i.split_id, i.protocol, i.image_id)
    AND m.shots IS NOT DISTINCT FROM i.shots AND m.ratio IS NOT DISTINCT FROM i.ratio
LEFT JOIN images f ON f.image_id = i.image_id
LEFT JOIN masks k ON k.image_id = i.image_id AND k.source_id = 'truth'
LEFT JOIN marked a ON a.image_id = i.image_id
LEFT JOIN grouped g ON g.split_id = i.split_id AND g.image_id = i.image_id
ORDER BY i.dataset, i.split_id, i.protocol, i.shots, i.ratio, flip_rate_seeds DESC NULLS LAST, share_wrong DESC,
    i.image_id
