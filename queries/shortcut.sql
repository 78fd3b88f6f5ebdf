-- How much of a result was the scanner's ink: AUROC of each recipe beside that of the raw pictures, by setting.
-- $raw: the recipe that the others are compared with, by name or id; of a name the newest (default: pad224)
-- $dataset: one data set (default: all)
-- $model: one model (default: all)
-- $method: one method (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- $protocol: val-tuned or strict (default: all)
-- Of recipes other than those below the raw one alone is listed. artefacts-only224 shows nothing but the ink, and what
-- it has above 0.5 the ink alone tells. lesion-blacked224 less lesion-blacked-clean224 is what the ink tells where the
-- lesion cannot be seen; the outline of the hole is in both. That there is a lesion shows by the hole, and by what
-- lesion-only224 leaves, so of these "lesion or normal" says nothing. over_raw is the mean difference on the same
-- support sets, n_pairs of them; low and high are its t interval (95 %) over them.
WITH scored AS (
    SELECT *, CASE WHEN metric = 'auroc' THEN 'lesion or normal' ELSE 'malignant or benign' END AS question
    FROM results
    WHERE subject = 'test' AND (metric = 'auroc' AND class = 'normal' OR metric = 'auroc_malignant_vs_benign')
        AND ($dataset IS NULL OR dataset = $dataset) AND ($model IS NULL OR $model IN (model, model_id))
        AND ($method IS NULL OR method = $method) AND ($protocol IS NULL OR protocol = $protocol)
        AND ($shots IS NULL OR shots = $shots) AND ($ratio IS NULL OR ratio = $ratio)
), raw_id AS (
    SELECT recipe_id FROM current_runs WHERE coalesce($raw, 'pad224') IN (recipe, recipe_id)
    ORDER BY finished_at DESC NULLS LAST, recipe_id LIMIT 1
), raw AS (
    SELECT * FROM scored WHERE recipe_id = (FROM raw_id)
), beside AS (
    SELECT s.*, s.value - r.value AS difference
    FROM scored s LEFT JOIN raw r
        ON (r.dataset, r.split_id, r.episode_id, r.method, r.model_id, r.parameters, r.protocol, r.question)
            = (s.dataset, s.split_id, s.episode_id, s.method, s.model_id, s.parameters, s.protocol, s.question)
        AND r.text_id IS NOT DISTINCT FROM s.text_id
    WHERE s.recipe_id = (FROM raw_id) OR s.recipe IN ('clean224', 'clean224-ocr', 'sector224', 'lesion-only224',
        'lesion-blacked224', 'lesion-blacked-clean224', 'artefacts-only224')
), summed AS (
    SELECT
        dataset, shots, ratio, method, model, question, recipe, avg(value) AS auroc, stddev_samp(value) AS sd,
        count(DISTINCT run_id) AS n_seeds, avg(difference) AS over_raw, count(difference) AS n_pairs,
        stddev_samp(difference) / sqrt(n_pairs) * student_975(n_pairs - 1) AS half_width, protocol, split_id, text_id,
        model_id, recipe_id, parameters
    FROM beside GROUP BY ALL
)
SELECT
    dataset, shots, ratio, method, model, question, recipe, auroc, over_raw, over_raw - half_width AS low,
    over_raw + half_width AS high, sd, n_seeds, n_pairs, protocol, split_id, text_id, model_id, recipe_id, parameters
FROM summed
ORDER BY dataset, split_id, protocol, shots NULLS LAST, ratio NULLS LAST, method, model_id, parameters, text_id,
    question DESC, recipe_id <> (FROM raw_id), recipe, recipe_id
