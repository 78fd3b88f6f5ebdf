-- Test images that runs get wrong most often: share wrong, probability of the true class, what was said instead.
-- $limit: how many images (default: 20)
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $model: one model (default: all)
-- $method: one method (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
WITH said AS (
    SELECT
        r.dataset, p.image_id, p.label, p.probabilities[list_position(r.classes, p.label)] AS p_true,
        p.predicted <> p.label AS wrong, CASE WHEN wrong THEN p.predicted END AS instead
    FROM predictions p JOIN current_runs r USING (run_id)
    WHERE p.part = 'test' AND ($dataset IS NULL OR r.dataset = $dataset)
        AND ($model IS NULL OR r.model = $model) AND ($method IS NULL OR r.method = $method)
        AND ($shots IS NULL OR r.shots = $shots) AND ($split_id IS NULL OR r.split_id = $split_id)
        AND ($protocol IS NULL OR r.protocol = $protocol) AND ($ratio IS NULL OR r.ratio = $ratio)
), instead AS (
    SELECT image_id, instead, count(*) AS n FROM said WHERE wrong GROUP BY ALL
), most AS (
    SELECT image_id, arg_max(instead, (n, instead)) AS mostly_said FROM instead GROUP BY ALL
)
SELECT
    s.dataset, s.image_id, s.label, m.mostly_said, count(*) AS n_runs, count(*) FILTER (s.wrong) AS n_wrong,
    n_wrong / n_runs AS share_wrong, round(avg(s.p_true), 12) AS p_true, k.area_px AS lesion_area_px,
    k.area_px / (i.width_px::DOUBLE * i.height_px) AS lesion_share
FROM said s LEFT JOIN most m USING (image_id) LEFT JOIN images i USING (image_id)
LEFT JOIN masks k ON k.image_id = s.image_id AND k.source_id = 'truth'
GROUP BY ALL
HAVING n_wrong > 0
ORDER BY share_wrong DESC, p_true, s.image_id
LIMIT coalesce(CAST($limit AS INTEGER), 20)
