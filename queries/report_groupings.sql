-- The newest grouping of each data set, and how many of its groups each split cuts.
WITH chosen AS (
    SELECT DISTINCT dataset, split_id FROM splits
), cut AS (
    SELECT g.dataset, g.grouping, c.split_id, g.group_id, count(s.part) AS n,
        count(DISTINCT s.part) FILTER (s.part IN ('train', 'val', 'test')) AS parts
    FROM current_groups g
    LEFT JOIN chosen c ON c.dataset = g.dataset
    LEFT JOIN splits s ON s.split_id = c.split_id AND s.image_id = g.image_id
    GROUP BY ALL
)
SELECT
    dataset, grouping, split_id,
    count(*) AS n_groups,
    count(*) FILTER (parts > 1) AS n_groups_cut,
    CAST(coalesce(sum(n) FILTER (parts > 1), 0) AS BIGINT) AS n_images_in_cut_groups
FROM cut
GROUP BY dataset, grouping, split_id
ORDER BY ALL
