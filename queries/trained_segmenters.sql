-- What was trained to segment: on how many lesions, how many numbers of it, from which weights, and at what cost.
-- $dataset: one data set (default: all)
SELECT segmenter, init, weights_source, weights_sha256, dataset, split_id, n_train, n_val, n_trained, n_epochs,
       best_epoch, round(val_dice, 4) AS val_dice, round(seconds, 1) AS seconds, round(cpu_seconds, 1) AS cpu_seconds,
       device, parameters, segmenter_id, finished_at
FROM segmenters
WHERE n_train > 0 AND ($dataset IS NULL OR dataset = $dataset)
ORDER BY dataset, segmenter, finished_at, segmenter_id
