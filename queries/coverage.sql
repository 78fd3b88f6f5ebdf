-- How many images each recipe has preprocessed and each model has encoded, and how many of those are out of date.
-- $dataset: one data set (default: all)
WITH sizes AS (
    SELECT dataset, count(*) AS n_images FROM images WHERE $dataset IS NULL OR dataset = $dataset GROUP BY dataset
), prepared AS (
    SELECT i.dataset, p.recipe, p.recipe_id, count(*) AS n
    FROM preprocessed p JOIN images i USING (image_id) GROUP BY ALL
), encoded AS (
    SELECT i.dataset, e.model, e.model_id, e.recipe_id, count(*) AS n,
        count(*) FILTER (p.pixels_sha256 IS DISTINCT FROM e.input_sha256) AS n_stale
    FROM embeddings e JOIN images i USING (image_id) LEFT JOIN preprocessed p USING (image_id, recipe_id) GROUP BY ALL
)
SELECT
    s.dataset, p.recipe, e.model, s.n_images, coalesce(p.n, 0) AS n_preprocessed, coalesce(e.n, 0) AS n_encoded,
    n_encoded / s.n_images AS share, coalesce(e.n_stale, 0) AS n_stale, p.recipe_id, e.model_id
FROM sizes s LEFT JOIN prepared p USING (dataset)
LEFT JOIN encoded e ON e.dataset = s.dataset AND e.recipe_id = p.recipe_id
ORDER BY s.dataset, p.recipe_id, e.model_id
