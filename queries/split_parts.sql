-- What the parts of each split hold: images and near-duplicate groups by class.
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
WITH counted AS (
    SELECT
        dataset, split_id, source, part, label, count(*) AS n_images, count(DISTINCT group_id) AS n_groups, seed,
        grouping
    FROM splits GROUP BY ALL
)
SELECT
    dataset, split_id, source, part, label, n_images, n_groups,
    n_images / sum(n_images) OVER (PARTITION BY split_id, label) AS share_of_class, seed, grouping
FROM counted
WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
ORDER BY dataset, split_id, list_position(['train', 'val', 'test'], part), part, label
