-- Sets of images whose files, or whose pixels in different files, are the same.
-- $dataset: one data set (default: all)
WITH alike AS (
    SELECT 'file' AS same, file_sha256 AS sha256, * FROM images
    UNION ALL
    SELECT 'pixels', pixels_sha256, * FROM images
)
SELECT
    dataset, same, count(*) AS n_images, string_agg(DISTINCT label, ', ' ORDER BY label) AS labels,
    string_agg(image_id, ', ' ORDER BY image_id) AS image_ids, sha256
FROM alike
WHERE $dataset IS NULL OR dataset = $dataset
GROUP BY dataset, same, sha256
HAVING count(*) > 1 AND (same = 'file' OR count(DISTINCT file_sha256) > 1)
ORDER BY dataset, same, image_ids
