-- Runs without a drawn support set: on no image at all (shots 0), or on every training label (ratio NULL or 1).
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
SELECT
    r.dataset, r.split_id, r.protocol, r.method, r.model, r.model_id, r.recipe, r.recipe_id, r.parameters, r.shots,
    r.ratio,
    count(DISTINCT r.run_id) AS n_runs,
    max(r.n_labelled) AS n_labelled,
    max(r.n_test) AS n_test,
    round(avg(m.value) FILTER (m.metric = 'macro_f1'), 12) AS macro_f1,
    round(avg(m.value) FILTER (m.metric = 'balanced_accuracy'), 12) AS balanced_accuracy,
    round(avg(m.value) FILTER (m.metric = 'auroc_malignant_vs_benign'), 12) AS auroc_malignant_vs_benign,
    round(avg(m.value) FILTER (m.metric = 'recall' AND m.class = 'malignant'), 12) AS recall_malignant,
    round(avg(m.value) FILTER (m.metric = 'ece'), 12) AS ece
FROM current_runs r JOIN metrics m USING (run_id)
WHERE m.subject = 'test' AND (r.shots = 0 OR r.shots IS NULL AND coalesce(r.ratio, 1) = 1)
    AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
    AND ($protocol IS NULL OR r.protocol = $protocol)
GROUP BY ALL
ORDER BY dataset, split_id, protocol, shots NULLS LAST, macro_f1 DESC NULLS LAST, method, model_id, recipe_id, parameters
