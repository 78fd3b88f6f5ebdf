-- Precision, recall, F1 and AUROC of each class: means over seeds, and the spread of F1.
-- $dataset: one data set (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- $model: one model (default: all)
SELECT
    dataset, shots, ratio, method, model, recipe, protocol, class, count(*) FILTER (metric = 'f1') AS n_seeds,
    avg(value) FILTER (metric = 'precision') AS precision, avg(value) FILTER (metric = 'recall') AS recall,
    avg(value) FILTER (metric = 'f1') AS f1, stddev_samp(value) FILTER (metric = 'f1') AS f1_sd,
    avg(value) FILTER (metric = 'auroc') AS auroc, avg(value) FILTER (metric = 'support') AS n_test,
    split_id, model_id, recipe_id, parameters
FROM results
WHERE subject = 'test' AND class <> '' AND metric IN ('precision', 'recall', 'f1', 'auroc', 'support')
    AND ($dataset IS NULL OR dataset = $dataset) AND ($shots IS NULL OR shots = $shots)
    AND ($model IS NULL OR model = $model) AND ($ratio IS NULL OR ratio = $ratio)
GROUP BY ALL
ORDER BY dataset, split_id, shots, ratio, method, model_id, recipe_id, protocol, parameters, class
