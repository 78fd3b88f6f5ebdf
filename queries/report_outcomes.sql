-- The class that each run said for each test image, with its near-duplicate group: what the intervals resample.
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
SELECT p.run_id, p.image_id, coalesce(s.group_id, p.image_id) AS group_id, p.label, p.predicted
FROM predictions p
JOIN current_runs r USING (run_id)
LEFT JOIN splits s ON s.split_id = r.split_id AND s.image_id = p.image_id
WHERE p.part = 'test'
    AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
    AND ($protocol IS NULL OR r.protocol = $protocol)
ORDER BY p.run_id, p.image_id
