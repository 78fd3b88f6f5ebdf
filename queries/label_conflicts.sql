-- Images that are one picture under several labels: near-duplicate groups, pixels or files that span classes.
-- $dataset: one data set (default: all)
WITH alike AS (
    SELECT 'near-duplicates' AS kind, g.grouping || ' ' || g.group_id AS what, i.*
    FROM current_groups g JOIN images i USING (image_id)
    UNION ALL
    SELECT 'identical pixels', pixels_sha256, * FROM images
    UNION ALL
    SELECT 'identical file', file_sha256, * FROM images
)
SELECT
    dataset, kind, count(*) AS n_images, string_agg(DISTINCT label, ', ' ORDER BY label) AS labels,
    string_agg(image_id, ', ' ORDER BY image_id) AS image_ids, what
FROM alike
WHERE $dataset IS NULL OR dataset = $dataset
GROUP BY dataset, kind, what
HAVING count(DISTINCT label) > 1 AND (kind <> 'identical pixels' OR count(DISTINCT file_sha256) > 1)
ORDER BY dataset, kind, image_ids, what
