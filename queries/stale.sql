-- Rows made from pixels that have since changed: preprocessed images, and embeddings of a replaced input.
-- $dataset: one data set (default: all)
SELECT 'preprocessed' AS stage, i.dataset, p.image_id, p.recipe, NULL AS model, p.recipe_id, NULL AS model_id,
    p.source_sha256 AS made_from, i.pixels_sha256 AS now
FROM preprocessed p JOIN images i USING (image_id)
WHERE p.source_sha256 IS DISTINCT FROM i.pixels_sha256 AND ($dataset IS NULL OR i.dataset = $dataset)
UNION ALL
SELECT 'embedding', i.dataset, e.image_id, e.recipe, e.model, e.recipe_id, e.model_id, e.input_sha256, p.pixels_sha256
FROM embeddings e JOIN images i USING (image_id) LEFT JOIN preprocessed p USING (image_id, recipe_id)
WHERE e.input_sha256 IS DISTINCT FROM p.pixels_sha256 AND ($dataset IS NULL OR i.dataset = $dataset)
ORDER BY stage, dataset, recipe_id, model_id, image_id
