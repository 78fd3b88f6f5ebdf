-- The masks that stand in the report: of each trained segmenter, prompt and part the newest, test before validation.
-- $dataset: one data set (default: all)
SELECT g.dataset, g.segmenter, coalesce(g.init, s.init) AS init, s.weights_source, s.parameters, g.prompt, g.proposer,
       g.part, g.n_images, g.n_missed, g.n_false_positive, c.n_lesions, c.n_found, c.n_false_marks,
       s.n_train, s.n_val, s.n_trained, s.best_epoch, s.n_epochs, s.seconds AS train_s, g.segmenter_id, g.source_id,
       g.split_id
FROM current_segmentations g LEFT JOIN segmenters s ON s.segmenter_id = g.segmenter_id
LEFT JOIN (
    SELECT source_id, CAST(sum(r.n_lesions) AS BIGINT) AS n_lesions, CAST(sum(r.n_found) AS BIGINT) AS n_found,
           CAST(sum(r.n_false_marks) AS BIGINT) AS n_false_marks
    FROM mask_results r GROUP BY source_id
) c ON c.source_id = g.source_id
WHERE $dataset IS NULL OR g.dataset = $dataset
ORDER BY g.dataset, g.part = 'val', g.segmenter, g.segmenter_id, g.prompt, g.proposer
