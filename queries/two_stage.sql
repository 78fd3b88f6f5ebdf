-- Both stages together on the test part: is the class right, and the mask that it asks for; means over runs of a setting.
-- $threshold: the least Dice of a right mask (default: 0.5)
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- $method: one method (default: all)
-- $model: one model (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- $run_id: one run (default: all)
-- $segmenter: one segmenter, by name or id (default: all)
-- A mask is made where the predicted class has one, as `busistore diagnose` does: an image without a lesion is right
-- where it is called normal, or else if its class is right and the mask is empty. Each run meets each segmentation of
-- its split; n_images are those that both have. right_mask and dice_of_right (Dice, counted as 0 where the class is
-- wrong) are over the n_lesion of them that have a lesion, the other shares over all. Masks whose prompt was taken from
-- the truth (oracle-...) come after all others: nobody has them of a new patient.
WITH asked AS (
    SELECT * FROM current_runs
    WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
        AND ($method IS NULL OR method = $method) AND ($model IS NULL OR $model IN (model, model_id))
        AND ($shots IS NULL OR shots = $shots) AND ($ratio IS NULL OR ratio = $ratio)
        AND ($run_id IS NULL OR run_id = $run_id)
), masked AS (  -- what each segmentation did with each image
    SELECT
        g.source_id, g.segmenter, g.segmenter_id, g.prompt, g.split_id, g.dataset, k.image_id,
        NOT t.is_empty AS has_lesion, k.is_empty AS is_unmarked, coalesce(d.value, 0) AS dice
    FROM current_segmentations g JOIN masks k USING (source_id)
    JOIN masks t ON t.image_id = k.image_id AND t.source_id = 'truth'
    LEFT JOIN metrics d
        ON d.run_id = g.source_id AND d.subject = k.image_id AND d.metric = 'dice' AND d.class = ''
    WHERE g.part = 'test' AND ($segmenter IS NULL OR $segmenter IN (g.segmenter, g.segmenter_id))
), judged AS (
    SELECT
        r.run_id, m.source_id, m.has_lesion, m.dice, p.predicted = p.label AS class_right,
        CASE WHEN m.has_lesion THEN m.dice >= coalesce($threshold::DOUBLE, 0.5)
             ELSE p.predicted = 'normal' OR m.is_unmarked END AS mask_right
    FROM asked r JOIN predictions p ON p.run_id = r.run_id AND p.part = 'test'
    JOIN masked m ON m.image_id = p.image_id AND m.split_id = r.split_id AND m.dataset = r.dataset
), scored AS (
    SELECT
        run_id, source_id, count(*) AS n_images, count(*) FILTER (has_lesion) AS n_lesion,
        avg(class_right::INTEGER) AS right_class,
        avg(mask_right::INTEGER) FILTER (has_lesion) AS right_mask,
        avg((class_right AND mask_right)::INTEGER) AS both_right,
        avg(class_right::INTEGER * dice) FILTER (has_lesion) AS dice_of_right
    FROM judged GROUP BY run_id, source_id
)
SELECT
    r.method, r.model, r.shots, r.ratio, g.segmenter, g.init, g.prompt, g.proposer, count(*) AS n_runs, max(s.n_images) AS n_images,
    max(s.n_lesion) AS n_lesion, round(avg(s.right_class), 4) AS right_class, round(avg(s.right_mask), 4) AS right_mask,
    round(avg(s.both_right), 4) AS both_right, round(stddev_samp(s.both_right), 4) AS sd_both,
    round(avg(s.dice_of_right), 4) AS dice_of_right, r.protocol, r.dataset, r.split_id, g.segmenter_id, s.source_id,
    r.model_id, r.recipe_id, r.parameters
FROM scored s JOIN asked r USING (run_id) JOIN current_segmentations g USING (source_id)
GROUP BY r.method, r.model, r.shots, r.ratio, g.segmenter, g.init, g.prompt, g.proposer, r.protocol, r.dataset, r.split_id, g.segmenter_id,
    s.source_id, r.model_id, r.recipe_id, r.parameters
ORDER BY r.dataset, r.split_id, g.prompt LIKE 'oracle-%', both_right DESC, r.method, r.model_id, r.shots, r.ratio, s.source_id, r.recipe_id,
    r.protocol, r.parameters
