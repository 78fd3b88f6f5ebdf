-- What each run said of its test images: one row per run, probabilities by image id and then in the order of classes.
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $method: one method (default: all)
-- $model_id: one model with its weights (default: all)
-- $recipe_id: one recipe (default: all)
-- $parameters: the method's parameters as they are stored (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- Runs of one images_md5 were tested on the same images; tested_images lists them, with groups and labels.
WITH chosen AS (
    SELECT * FROM current_runs
    WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
        AND ($protocol IS NULL OR protocol = $protocol) AND ($method IS NULL OR method = $method)
        AND ($model_id IS NULL OR model_id = $model_id) AND ($recipe_id IS NULL OR recipe_id = $recipe_id)
        AND ($parameters IS NULL OR parameters = $parameters)
        AND ($shots IS NULL OR shots = $shots) AND ($ratio IS NULL OR ratio = $ratio)
), said AS (
    SELECT run_id, count(*) AS n_images, md5(string_agg(image_id, chr(10) ORDER BY image_id)) AS images_md5,
        flatten(list(probabilities ORDER BY image_id)) AS probabilities
    FROM predictions WHERE part = 'test' AND run_id IN (SELECT run_id FROM chosen) GROUP BY run_id
)
SELECT
    c.dataset, c.split_id, c.protocol, c.method, c.model, c.model_id, c.recipe, c.recipe_id, c.parameters, c.shots,
    c.ratio, c.seed, c.episode_id, c.run_id, c.classes, s.n_images, s.images_md5, s.probabilities
FROM chosen c JOIN said s USING (run_id)
ORDER BY c.dataset, c.split_id, c.protocol, c.method, c.model_id, c.recipe_id, c.parameters, c.shots,
    c.ratio, c.seed, c.run_id
