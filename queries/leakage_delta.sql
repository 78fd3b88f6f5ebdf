-- What leakage is worth: the same grid on a naive split, which cuts near-duplicate groups, less on a grouped one.
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- $naive: a split that cuts groups (default: all)
-- $grouped: a split that cuts none (default: all)
-- $model: one model (default: all)
-- $method: one method (default: all)
-- $protocol: val-tuned or strict (default: all)
-- $shots: one number of shots (default: all)
-- $ratio: one share of the training part, as 0.05 (default: all)
-- Splits of one grouping and of equal shares are paired by the seed that they were drawn with, or as they are named, and
-- their runs by the seed of the support set. Over one pair of splits the t interval (95 %) speaks of support sets alone,
-- and the two sides differ in their test images. Over several pairs it speaks of further splits of these images, which
-- share images: the variance of their mean is taken as sd^2 (1/n + test/train), after Nadeau & Bengio (2003), Machine
-- Learning 52, 239-281. Naive splits of before 0.3.0 hold images that the grouped ones leave out: see n_images.
WITH cut AS (
    SELECT split_id, any_value(dataset) AS dataset, any_value(seed) AS seed, any_value(grouping) AS grouping,
        regexp_extract(any_value(source), '[0-9./]*$') AS shares, group_id,
        count(DISTINCT part) FILTER (part IN ('train', 'val', 'test')) AS parts,
        count(*) FILTER (part IN ('train', 'val', 'test')) AS n, count(*) FILTER (part = 'train') AS n_train,
        count(*) FILTER (part = 'test') AS n_test
    FROM splits GROUP BY split_id, group_id
), kinds AS (
    SELECT split_id, any_value(dataset) AS dataset, any_value(seed) AS seed, any_value(grouping) AS grouping,
        any_value(shares) AS shares, count(*) FILTER (parts > 1) AS n_groups_cut, sum(n)::BIGINT AS n_images,
        sum(n_test) / sum(n_train) AS test_to_train
    FROM cut GROUP BY split_id
), pairs_of_splits AS (
    SELECT n.split_id AS naive, g.split_id AS grouped, n.n_groups_cut, n.n_images AS n_images_naive,
        g.n_images AS n_images_grouped, g.test_to_train
    FROM kinds n JOIN kinds g ON g.dataset = n.dataset AND g.n_groups_cut = 0 AND n.n_groups_cut > 0
    WHERE ($naive IS NULL OR n.split_id = $naive) AND ($grouped IS NULL OR g.split_id = $grouped)
        AND ($naive IS NOT NULL AND $grouped IS NOT NULL
            OR (n.seed, n.shares) = (g.seed, g.shares) AND n.grouping IS NOT DISTINCT FROM g.grouping)
    QUALIFY row_number() OVER (PARTITION BY n.split_id ORDER BY g.split_id) = 1
        AND row_number() OVER (PARTITION BY g.split_id ORDER BY n.split_id) = 1  -- each split counts once
), chosen AS (
    SELECT * FROM results
    WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
        AND ($dataset IS NULL OR dataset = $dataset) AND ($model IS NULL OR $model IN (model, model_id))
        AND ($method IS NULL OR method = $method) AND ($protocol IS NULL OR protocol = $protocol)
        AND ($shots IS NULL OR shots = $shots) AND ($ratio IS NULL OR ratio = $ratio)
), pairs_of_runs AS (
    SELECT
        a.dataset, a.method, a.model, a.recipe, a.protocol, a.shots, a.ratio, a.metric, p.naive, p.grouped,
        p.n_groups_cut, p.n_images_naive, p.n_images_grouped, p.test_to_train, a.text_id, a.model_id, a.recipe_id, a.parameters, a.value AS of_naive, b.value AS of_grouped,
        a.value - b.value AS difference, a.exposure_support AS support_naive, b.exposure_support AS support_grouped,
        a.exposure_val AS val_naive, b.exposure_val AS val_grouped
    FROM chosen a JOIN pairs_of_splits p ON p.naive = a.split_id
    JOIN chosen b ON b.split_id = p.grouped AND (b.method, b.model_id, b.recipe_id, b.parameters, b.protocol)
        = (a.method, a.model_id, a.recipe_id, a.parameters, a.protocol)
        AND b.shots IS NOT DISTINCT FROM a.shots AND b.ratio IS NOT DISTINCT FROM a.ratio
        AND b.seed IS NOT DISTINCT FROM a.seed AND b.text_id IS NOT DISTINCT FROM a.text_id
), by_pair_of_splits AS (
    SELECT
        dataset, method, model, recipe, protocol, shots, ratio, metric, naive, grouped, n_groups_cut,
        n_images_naive, n_images_grouped, test_to_train, text_id, model_id, recipe_id, parameters, count(*) AS n_seeds, avg(of_naive) AS of_naive, avg(of_grouped) AS of_grouped,
        avg(difference) AS difference, stddev_samp(difference) AS sd, avg(support_naive) AS support_naive,
        avg(support_grouped) AS support_grouped, avg(val_naive) AS val_naive, avg(val_grouped) AS val_grouped
    FROM pairs_of_runs GROUP BY ALL
), summed AS (
    SELECT
        dataset, method, model, recipe, protocol, shots, ratio, metric, count(*) AS n_split_pairs,
        sum(n_seeds)::BIGINT AS n_pairs, avg(of_naive) AS mean_naive, avg(of_grouped) AS mean_grouped,
        avg(difference) AS mean_difference,
        CASE WHEN n_split_pairs > 1 THEN stddev_samp(difference) ELSE any_value(sd) END AS sd_of,
        CASE WHEN n_split_pairs > 1 THEN 'pairs of splits' ELSE 'seeds' END AS spread_over,
        CASE WHEN n_split_pairs > 1 THEN n_split_pairs ELSE n_pairs END AS n,
        avg(support_naive) AS exposure_support_naive, avg(support_grouped) AS exposure_support_grouped,
        avg(val_naive) AS exposure_val_naive, avg(val_grouped) AS exposure_val_grouped,
        max(n_groups_cut) AS n_groups_cut, max(n_images_naive) AS n_images_naive,
        max(n_images_grouped) AS n_images_grouped, avg(test_to_train) AS test_to_train,
        string_agg(naive, ', ' ORDER BY naive) AS naive, string_agg(grouped, ', ' ORDER BY naive) AS grouped,
        text_id, model_id, recipe_id, parameters
    FROM by_pair_of_splits GROUP BY ALL
), halved AS (
    SELECT *, n - 1 AS df, CASE WHEN n_split_pairs > 1 THEN test_to_train ELSE 0 END AS shared,
        sd_of * sqrt(1 / n + shared) * student_975(df) AS half_width
    FROM summed
)
SELECT
    dataset, shots, ratio, method, model, mean_difference AS difference, mean_difference - half_width AS low,
    mean_difference + half_width AS high, mean_naive, mean_grouped, exposure_support_naive, exposure_val_naive,
    n_split_pairs, n_pairs, spread_over, sd_of AS sd, metric, protocol, recipe, exposure_support_grouped,
    exposure_val_grouped, n_groups_cut, n_images_naive, n_images_grouped, naive, grouped, text_id, model_id, recipe_id,
    parameters
FROM halved
ORDER BY dataset, method, model_id, recipe_id, protocol, parameters, text_id, shots NULLS LAST, ratio NULLS LAST
