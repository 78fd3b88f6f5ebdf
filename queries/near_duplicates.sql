-- Pairs of images found to show the same frame: their similarity, their labels and the group they fall into.
-- $dataset: one data set (default: all)
-- $grouping: one grouping (default: the newest of each data set)
SELECT
    p.dataset, p.image_id, p.other_id, p.similarity, p.reason, i.label, o.label AS other_label,
    g.group_id, g.size AS group_size, i.label <> o.label AS crosses_classes, p.grouping
FROM pairs p JOIN images i USING (image_id) JOIN images o ON o.image_id = p.other_id
LEFT JOIN groups g ON g.image_id = p.image_id AND g.grouping = p.grouping
WHERE ($dataset IS NULL OR p.dataset = $dataset)
    AND CASE WHEN $grouping IS NULL THEN p.grouping IN (SELECT grouping FROM current_groups) ELSE p.grouping = $grouping END
ORDER BY p.dataset, p.grouping, p.similarity DESC, p.image_id, p.other_id
