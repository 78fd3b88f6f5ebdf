-- For each split, how many near-duplicate groups its parts cut, and the exposure that its runs recorded.
WITH cut AS (
    SELECT split_id, group_id, count(DISTINCT part) FILTER (part IN ('train', 'val', 'test')) AS parts, count(*) AS n
    FROM splits GROUP BY split_id, group_id
), seen AS (
    SELECT split_id, count(*) AS n_runs, max(exposure_support) AS exposure_support_max,
        max(exposure_val) AS exposure_val_max
    FROM current_runs GROUP BY split_id
), named AS (
    SELECT split_id, any_value(dataset) AS dataset, any_value(source) AS source, any_value(seed) AS seed,
        any_value(grouping) AS grouping, count(*) AS n_images
    FROM splits GROUP BY split_id
)
SELECT n.split_id, n.dataset, n.source, n.seed, n.grouping, n.n_images,
    count(*) AS n_groups,
    count(*) FILTER (c.parts > 1) AS n_groups_cut,
    CAST(coalesce(sum(c.n) FILTER (c.parts > 1), 0) AS BIGINT) AS n_images_in_cut_groups,
    any_value(s.n_runs) AS n_runs,
    any_value(s.exposure_support_max) AS exposure_support_max,
    any_value(s.exposure_val_max) AS exposure_val_max
FROM named n JOIN cut c USING (split_id) LEFT JOIN seen s USING (split_id)
GROUP BY n.split_id, n.dataset, n.source, n.seed, n.grouping, n.n_images
ORDER BY n.split_id
