-- How often the decision on a test image changes with the recipe, raw against cleaned, by what was burned into the image.
-- $raw: a recipe, by name or id; of a name the newest (default: pad224)
-- $cleaned: the recipe that it is compared with, one that looks for ink (default: clean224)
-- $dataset: one data set (default: all)
-- $model: one model (default: all)
-- $method: one method (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- Both sides learned from the same support sets. n_decisions counts an image once for each of the n_seeds; flips is the
-- share of them that differ, to_right and to_wrong those that became right and wrong; the rest went from wrong to wrong.
WITH ink AS (
    SELECT image_id, recipe_id, CASE
        WHEN regexp_matches(artefacts, '"kind":"caliper') THEN 'calipers'
        WHEN artefacts <> '[]' THEN 'other ink' ELSE 'none' END AS ink
    FROM preprocessed WHERE recipe = coalesce($cleaned, 'clean224')
), asked AS (
    SELECT * FROM current_runs
    WHERE ($dataset IS NULL OR dataset = $dataset) AND ($model IS NULL OR $model IN (model, model_id))
        AND ($method IS NULL OR method = $method) AND ($shots IS NULL OR shots = $shots)
        AND ($ratio IS NULL OR ratio = $ratio)
), raw_id AS (
    SELECT recipe_id FROM current_runs WHERE coalesce($raw, 'pad224') IN (recipe, recipe_id)
    ORDER BY finished_at DESC NULLS LAST, recipe_id LIMIT 1
), paired AS (
    SELECT r.*, c.run_id AS other_id, c.recipe_id AS other_recipe_id
    FROM asked r JOIN asked c
        ON (r.dataset, r.split_id, r.episode_id, r.method, r.model_id, r.parameters, r.protocol)
            = (c.dataset, c.split_id, c.episode_id, c.method, c.model_id, c.parameters, c.protocol)
        AND r.text_id IS NOT DISTINCT FROM c.text_id
    WHERE r.recipe_id = (FROM raw_id) AND c.recipe = coalesce($cleaned, 'clean224')
)
SELECT r.dataset, r.shots, r.ratio, r.method, r.model, i.ink, count(DISTINCT p.image_id) AS n_images,
    count(DISTINCT r.run_id) AS n_seeds, count(*) AS n_decisions,
    round(avg((p.predicted <> q.predicted)::INTEGER), 4) AS flips,
    round(avg((p.predicted <> p.label AND q.predicted = q.label)::INTEGER), 4) AS to_right,
    round(avg((p.predicted = p.label AND q.predicted <> q.label)::INTEGER), 4) AS to_wrong,
    r.protocol, r.split_id, r.model_id, r.recipe_id, r.other_recipe_id, r.parameters, r.text_id
FROM paired r
JOIN predictions p ON p.run_id = r.run_id AND p.part = 'test'
JOIN predictions q ON q.run_id = r.other_id AND q.part = 'test' AND q.image_id = p.image_id
JOIN ink i ON i.image_id = p.image_id AND i.recipe_id = r.other_recipe_id
GROUP BY r.dataset, r.shots, r.ratio, r.method, r.model, i.ink, r.protocol, r.split_id, r.model_id, r.recipe_id,
    r.other_recipe_id, r.parameters, r.text_id
ORDER BY r.dataset, r.split_id, r.protocol, r.shots NULLS LAST, r.ratio NULLS LAST, r.method, r.model_id, r.parameters,
    r.text_id, r.recipe_id, r.other_recipe_id, i.ink
