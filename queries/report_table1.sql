-- The images by class, as a paper's first table: lesions, sizes, near-duplicates and parts of the split.
-- $dataset: name of one data set (default: all)
-- $split_id: the split whose parts are counted (default: all)
-- $grouping: the grouping whose groups are counted (default: all)
WITH truth AS (SELECT * FROM masks WHERE source_id = 'truth'),
grouped AS (
    SELECT image_id, any_value(group_id) AS group_id, max(size) AS size, bool_or(spans_classes) AS spans_classes
    FROM groups WHERE $grouping IS NULL OR grouping = $grouping GROUP BY image_id
),
parts AS (
    SELECT image_id, any_value(part) AS part FROM splits
    WHERE $split_id IS NULL OR split_id = $split_id GROUP BY image_id
)
SELECT
    i.dataset,
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
LEFT JOIN truth t USING (image_id)
LEFT JOIN grouped g USING (image_id)
LEFT JOIN parts p USING (image_id)
WHERE $dataset IS NULL OR i.dataset = $dataset
GROUP BY GROUPING SETS ((i.dataset, i.label), (i.dataset))
ORDER BY i.dataset, grouping(i.label), i.label
