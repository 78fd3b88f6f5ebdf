-- What a data set is made of and what is wrong with it: one row per finding, with examples.
-- $dataset: one data set (default: all)
WITH checks AS (
    SELECT * FROM (VALUES
        (1, 'images'), (2, 'images of a class'), (3, 'image mode'), (4, 'image width'), (5, 'image height'),
        (6, 'image without a mask'), (7, 'several masks'), (8, 'several lesions'), (9, 'lesion touches the edge'),
        (10, 'empty mask'), (11, 'identical files'), (12, 'identical pixels, other file'), (13, 'near-duplicates'),
        (14, 'near-duplicates across classes'), (15, 'mask of another size'), (16, 'not taken for another reason')
    ) c(position, finding)
), named AS (
    SELECT *, split_part(key, '/', 1) AS dataset, reason LIKE 'the mask % is % px, its image %' AS of_mask
    FROM failures WHERE job = 'ingest'
), same_file AS (
    SELECT dataset, file_sha256, count(*) AS n, string_agg(image_id, ' = ' ORDER BY image_id) AS ids
    FROM images GROUP BY ALL HAVING n > 1
), same_pixels AS (
    SELECT dataset, pixels_sha256, count(*) AS n, string_agg(image_id, ' = ' ORDER BY image_id) AS ids
    FROM images GROUP BY ALL HAVING count(DISTINCT file_sha256) > 1
), alike AS (
    SELECT dataset, grouping, group_id, any_value(spans_classes) AS spans, count(*) AS n,
        string_agg(image_id, ' ~ ' ORDER BY image_id) AS ids, max(max_similarity) AS most
    FROM current_groups GROUP BY ALL HAVING n > 1
), facts AS (
    SELECT i.dataset, i.label, m.* FROM masks m JOIN images i USING (image_id) WHERE m.source_id = 'truth'
), found AS (
    SELECT dataset, 1 AS position, '' AS value, 1 AS n, NULL AS example FROM images
    UNION ALL SELECT dataset, 2, label, 1, NULL FROM images
    UNION ALL SELECT dataset, 3, mode, 1, image_id FROM images
    UNION ALL SELECT dataset, 4, format(
        '{} to {} px, median {:.0f}', min(width_px), max(width_px), median(width_px)), count(*), NULL
        FROM images GROUP BY dataset
    UNION ALL SELECT dataset, 5, format(
        '{} to {} px, median {:.0f}', min(height_px), max(height_px), median(height_px)), count(*), NULL
        FROM images GROUP BY dataset
    UNION ALL SELECT dataset, 6, label, 1, image_id FROM images
        WHERE image_id NOT IN (SELECT image_id FROM masks WHERE source_id = 'truth')
    UNION ALL SELECT dataset, 7, label, 1, image_id FROM facts WHERE n_masks > 1
    UNION ALL SELECT dataset, 8, label, 1, image_id FROM facts WHERE n_lesions > 1
    UNION ALL SELECT dataset, 9, label, 1, image_id FROM facts WHERE touches_edge
    UNION ALL SELECT dataset, 10, label, 1, image_id FROM facts WHERE is_empty
    UNION ALL SELECT dataset, 11, '', n, ids FROM same_file
    UNION ALL SELECT dataset, 12, '', n, ids FROM same_pixels
    UNION ALL SELECT dataset, 13, grouping, n, ids || coalesce(format(' ({:.3f})', most), ' (one patient)')
        FROM alike
    UNION ALL SELECT dataset, 14, grouping, n, ids FROM alike WHERE spans
    UNION ALL SELECT DISTINCT dataset, p.position, 'not searched yet', NULL, NULL
        FROM images, (VALUES (13), (14)) p(position)
        WHERE dataset NOT IN (SELECT dataset FROM groups WHERE dataset IS NOT NULL)
    UNION ALL SELECT dataset, 15, '', 1, key FROM named WHERE of_mask
    UNION ALL SELECT dataset, 16, reason, 1, key FROM named WHERE NOT of_mask
), datasets AS (
    SELECT dataset FROM images UNION SELECT dataset FROM named
)
SELECT
    d.dataset, c.finding, coalesce(f.value, '') AS value,
    (CASE WHEN count(f.position) = 0 THEN 0 ELSE sum(f.n) END)::BIGINT AS n,
    CASE WHEN c.position BETWEEN 11 AND 14 THEN count(f.n) END AS n_sets,
    replace(coalesce(array_to_string(list_sort(list(f.example))[:3], '; '), ''), d.dataset || '/', '') AS examples
FROM datasets d CROSS JOIN checks c LEFT JOIN found f ON f.dataset = d.dataset AND f.position = c.position
WHERE $dataset IS NULL OR d.dataset = $dataset
GROUP BY d.dataset, c.position, c.finding, f.value
ORDER BY d.dataset, c.position, n DESC, value
