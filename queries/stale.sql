-- What was made from pixels that have since changed: preprocessed images, embeddings, groupings, runs and masks.
-- $dataset: one data set (default: all)
-- A run is stale when the vectors that its split has now are not those it learned from; of a grouping, every image
-- that is newer is named. Masks are stale when the pictures or true masks of their part are others now; run_id is then
-- their source. What was made anew is no longer in the results and not listed here.
SELECT 'preprocessed' AS stage, i.dataset, p.image_id, p.recipe, NULL AS model, p.recipe_id, NULL AS model_id,
    p.source_sha256 AS made_from, i.pixels_sha256 AS now, NULL AS grouping, NULL AS run_id
FROM preprocessed p JOIN images i USING (image_id)
WHERE p.source_sha256 IS DISTINCT FROM i.pixels_sha256 AND ($dataset IS NULL OR i.dataset = $dataset)
UNION ALL
SELECT 'embedding', i.dataset, e.image_id, e.recipe, e.model, e.recipe_id, e.model_id, e.input_sha256, p.pixels_sha256,
    NULL, NULL
FROM embeddings e JOIN images i USING (image_id) LEFT JOIN preprocessed p USING (image_id, recipe_id)
WHERE e.input_sha256 IS DISTINCT FROM p.pixels_sha256 AND ($dataset IS NULL OR i.dataset = $dataset)
UNION ALL
SELECT 'grouping', i.dataset, i.image_id, NULL, NULL, NULL, NULL, NULL, i.pixels_sha256, n.grouping, NULL
FROM images i JOIN (SELECT DISTINCT dataset, grouping, grouped_at FROM current_groups) n USING (dataset)
LEFT JOIN current_groups g USING (image_id)
WHERE (g.image_id IS NULL OR i.ingested_at > g.grouped_at) AND ($dataset IS NULL OR i.dataset = $dataset)
UNION ALL
SELECT 'run', r.dataset, NULL, r.recipe, r.model, r.recipe_id, r.model_id, r.inputs_sha256, n.inputs_sha256, NULL,
    r.run_id
FROM current_runs r LEFT JOIN split_inputs n USING (split_id, model_id, recipe_id)
WHERE r.inputs_sha256 IS DISTINCT FROM n.inputs_sha256 AND ($dataset IS NULL OR r.dataset = $dataset)
UNION ALL
SELECT 'masks', dataset, NULL, NULL, segmenter, NULL, segmenter_id, inputs_sha256, inputs_now, NULL, source_id
FROM newest_segmentations WHERE NOT is_current AND ($dataset IS NULL OR dataset = $dataset)
ORDER BY stage, dataset, recipe_id, model_id, image_id, run_id
