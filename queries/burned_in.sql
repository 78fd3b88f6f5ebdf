-- What scanners burned into each image, as a recipe found it: how many marks, lines, words and others, and was it filled.
-- $recipe: a recipe that looks for it, by name or id (default: clean224)
-- $dataset: one data set (default: all)
-- $label: one class (default: all)
-- ink_share is what is filled of the image, where findings overlap counted twice. least_score is that of the weakest caliper mark: below 24
-- a mark counts for its line or for a sure one like it alone. Found and not filled: too much of the image, or flow.
WITH parsed AS (
    SELECT p.image_id, p.recipe_id, i.dataset, i.label, i.width_px * i.height_px AS area_px,
        from_json(p.artefacts, '[{"kind":"VARCHAR","area_px":"BIGINT","score":"DOUBLE","filled":"BOOLEAN"}]') AS found
    FROM preprocessed p JOIN images i ON i.image_id = p.image_id AND i.pixels_sha256 = p.source_sha256
    WHERE coalesce($recipe, 'clean224') IN (p.recipe, p.recipe_id) AND p.recipe IN ('clean224', 'clean224-ocr', 'sector224',
            'lesion-blacked-clean224', 'artefacts-only224') AND ($dataset IS NULL OR i.dataset = $dataset)
        AND ($label IS NULL OR i.label = $label)
), flat AS (
    SELECT image_id, recipe_id, unnest(found) AS f FROM parsed
), counted AS (
    SELECT image_id, recipe_id,
        count(*) FILTER (f.kind LIKE 'caliper%') AS n_marks, count(*) FILTER (f.kind = 'line') AS n_lines,
        count(*) FILTER (f.kind IN ('text', 'digit')) AS n_words, count(*) FILTER (f.kind = 'logo') AS n_logos,
        count(*) FILTER (f.kind NOT LIKE 'caliper%' AND f.kind NOT IN ('line', 'text', 'digit', 'logo')) AS n_others,
        min(f.score) FILTER (f.kind LIKE 'caliper%') AS least_score,
        sum(f.area_px) AS ink_px, bool_and(f.filled) AS filled
    FROM flat GROUP BY ALL
)
SELECT p.dataset, p.image_id, p.label, coalesce(c.n_marks, 0) AS n_marks, coalesce(c.n_lines, 0) AS n_lines,
    coalesce(c.n_words, 0) AS n_words, coalesce(c.n_logos, 0) AS n_logos, coalesce(c.n_others, 0) AS n_others,
    round(c.least_score, 1) AS least_score, round(coalesce(c.ink_px, 0) / p.area_px, 5) AS ink_share,
    c.filled, p.recipe_id
FROM parsed p LEFT JOIN counted c USING (image_id, recipe_id)
ORDER BY p.dataset, p.image_id, p.recipe_id
