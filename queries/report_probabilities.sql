-- Every test prediction at one number of shots: the class said, how sure, and malignant against benign.
-- $dataset: name of one data set (default: all)
-- $split_id: id of one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $shots: labelled images per class (default: all)
SELECT
    r.dataset, r.split_id, r.protocol, r.method, r.model, r.model_id, r.recipe, r.recipe_id, r.parameters, r.shots, r.seed, p.image_id, p.label, p.predicted,
    list_max(p.probabilities) AS confidence,
    p.probabilities[list_position(r.classes, 'malignant')] AS p_malignant,
    p.probabilities[list_position(r.classes, 'benign')] AS p_benign
FROM current_runs r JOIN predictions p USING (run_id)
WHERE p.part = 'test'
    AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
    AND ($protocol IS NULL OR r.protocol = $protocol) AND ($shots IS NULL OR r.shots = CAST($shots AS INTEGER))
ORDER BY r.dataset, r.split_id, r.protocol, r.method, r.model_id, r.recipe_id, r.parameters, r.shots, r.seed, p.image_id, r.run_id
