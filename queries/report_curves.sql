-- One value per run of the metrics that the learning curves show.
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
SELECT
    r.dataset, r.split_id, r.protocol, r.method, r.model, r.model_id, r.recipe, r.recipe_id, r.parameters, r.shots,
    r.ratio, r.seed, m.metric, m.value, r.run_id
FROM current_runs r JOIN metrics m USING (run_id)
WHERE m.subject = 'test' AND m.class = ''
    AND m.metric IN ('macro_f1', 'auroc_malignant_vs_benign')
    AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
    AND ($protocol IS NULL OR r.protocol = $protocol)
ORDER BY r.dataset, r.split_id, r.protocol, r.method, r.model_id, r.recipe_id, r.parameters, r.shots, r.ratio, r.seed, m.metric, r.run_id
