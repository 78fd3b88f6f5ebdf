-- The test images of one run in the order of their ids, with label and near-duplicate group: what intervals resample.
-- $run_id: a run (required)
SELECT p.image_id, coalesce(s.group_id, p.image_id) AS group_id, p.label
FROM predictions p JOIN current_runs r USING (run_id)
LEFT JOIN splits s ON s.split_id = r.split_id AND s.image_id = p.image_id
WHERE p.part = 'test' AND p.run_id = $run_id
ORDER BY p.image_id
