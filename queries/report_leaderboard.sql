-- Every setting of a comparison by macro-F1 at one number of shots: means over seeds.
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $shots: labelled images per class (default: the largest of each setting)
WITH wide AS (
    SELECT
        r.run_id, r.dataset, r.split_id, r.protocol, r.method, r.model, r.model_id, r.recipe, r.recipe_id, r.parameters,
        r.shots, r.ratio, r.n_test,
        max(m.value) FILTER (m.metric = 'macro_f1') AS macro_f1,
        max(m.value) FILTER (m.metric = 'balanced_accuracy') AS balanced_accuracy,
        max(m.value) FILTER (m.metric = 'auroc_malignant_vs_benign') AS auroc_malignant_vs_benign,
        max(m.value) FILTER (m.metric = 'recall' AND m.class = 'malignant') AS recall_malignant,
        max(m.value) FILTER (m.metric = 'ece') AS ece
    FROM current_runs r JOIN metrics m USING (run_id)
    WHERE m.subject = 'test'
        AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
        AND ($protocol IS NULL OR r.protocol = $protocol)
    GROUP BY ALL
), largest AS (
    SELECT *, max(shots) OVER (PARTITION BY dataset, split_id, protocol, method, model_id, recipe_id, parameters) AS most
    FROM wide
)
SELECT
    dataset, split_id, protocol, method, model, model_id, recipe, recipe_id, parameters, shots, ratio,
    count(*) AS n_runs,
    max(n_test) AS n_test,
    round(avg(macro_f1), 12) AS macro_f1,
    round(stddev_samp(macro_f1), 12) AS macro_f1_sd,
    round(avg(balanced_accuracy), 12) AS balanced_accuracy,
    round(avg(auroc_malignant_vs_benign), 12) AS auroc_malignant_vs_benign,
    round(avg(recall_malignant), 12) AS recall_malignant,
    round(avg(ece), 12) AS ece
FROM largest
WHERE shots IS NOT DISTINCT FROM coalesce(CAST($shots AS INTEGER), most)
GROUP BY ALL
ORDER BY dataset, split_id, protocol, macro_f1 DESC NULLS LAST, method, model_id, recipe_id, parameters, ratio
