-- The images by class, as a paper's first table: lesions, sizes, near-duplicates and parts of the split.
-- $dataset: name of one data set (default: all)
-- $split_id: the split whose parts are counted (default: each, one after the other)
-- $grouping: the grouping whose groups are counted (default: the newest of each data set)
WITH truth AS (SELECT * FROM masks WHERE source_id = 'truth'),
grouped AS (
    SELECT image_id, group_id, size, spans_classes FROM current_groups WHERE $grouping IS NULL
    UNION ALL
    SELECT image_id, group_id, size, spans_classes FROM groups WHERE grouping = $grouping
),
chosen AS (SELECT DISTINCT dataset, split_id FROM splits WHERE $split_id IS NULL OR split_id = $split_id)
SELECT
    i.dataset,
    c.split_id,
    coalesce(i.label, 'all') AS label,
    count(*) AS images,
    count(i.patient_id) AS with_patient,
    median(i.width_px) AS width_px_median,
    median(i.height_px) AS height_px_median,
    min(i.width_px) AS width_px_min,
    max(i.width_px) AS width_px_max,
    min(i.height_px) AS height_px_min,
    max(i.height_px) AS height_px_max,
    count(*) FILTER (i.mode LIKE 'RGB%') AS colour_mode,
    count(t.image_id) AS with_mask,
    CAST(sum(t.n_lesions) AS BIGINT) AS lesions,
    count(*) FILTER (t.n_lesions > 1) AS multi_lesion,
    count(*) FILTER (t.touches_edge) AS touching_edge,
    round(100 * median(t.area_px / (i.width_px * i.height_px)) FILTER (NOT t.is_empty), 2) AS lesion_area_percent_median,
    round(100 * quantile_cont(t.area_px / (i.width_px * i.height_px), 0.25) FILTER (NOT t.is_empty), 2)
        AS lesion_area_percent_q1,
    round(100 * quantile_cont(t.area_px / (i.width_px * i.height_px), 0.75) FILTER (NOT t.is_empty), 2)
        AS lesion_area_percent_q3,
    count(DISTINCT g.group_id) AS groups,
    count(DISTINCT g.group_id) FILTER (g.size > 1) AS near_duplicate_groups,
    count(*) FILTER (g.size > 1) AS images_with_twin,
    count(*) FILTER (g.spans_classes) AS images_in_cross_class_groups,
    count(*) FILTER (p.part = 'train') AS train,
    count(*) FILTER (p.part = 'val') AS val,
    count(*) FILTER (p.part = 'test') AS test,
    count(*) FILTER (p.part IS NOT NULL AND p.part NOT IN ('train', 'val', 'test')) AS left_out
FROM images i
LEFT JOIN truth t ON t.image_id = i.image_id
LEFT JOIN grouped g ON g.image_id = i.image_id
LEFT JOIN chosen c ON c.dataset = i.dataset
LEFT JOIN splits p ON p.split_id = c.split_id AND p.image_id = i.image_id
WHERE $dataset IS NULL OR i.dataset = $dataset
GROUP BY GROUPING SETS ((i.dataset, c.split_id, i.label), (i.dataset, c.split_id))
ORDER BY i.dataset, c.split_id, grouping(i.label), i.label
