-- The test images that most runs get wrong, with what they said instead.
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $shots: labelled images per class (default: all)
-- $limit: how many images (default: 12)
WITH said AS (
    SELECT
        p.image_id, p.label, p.predicted, r.run_id,
        p.probabilities[list_position(r.classes, p.label)] AS p_true
    FROM current_runs r JOIN predictions p USING (run_id)
    WHERE p.part = 'test'
        AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
        AND ($protocol IS NULL OR r.protocol = $protocol) AND ($shots IS NULL OR coalesce(r.shots, 0) = CAST($shots AS INTEGER))
)
SELECT
    image_id, label,
    count(*) AS n_runs,
    count(*) FILTER (predicted <> label) AS n_wrong,
    mode(predicted ORDER BY predicted) FILTER (predicted <> label) AS said_instead,
    round(avg(p_true), 12) AS mean_probability_of_true_class
FROM said
GROUP BY image_id, label
HAVING count(*) FILTER (predicted <> label) > 0
ORDER BY n_wrong / count(*) DESC, mean_probability_of_true_class, image_id
LIMIT coalesce(CAST($limit AS BIGINT), 12)
