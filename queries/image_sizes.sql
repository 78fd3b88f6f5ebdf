-- How many images have each size and mode, by class.
-- $dataset: one data set (default: all)
SELECT dataset, width_px, height_px, mode, label, count(*) AS n_images, min(image_id) AS example
FROM images
WHERE $dataset IS NULL OR dataset = $dataset
GROUP BY ALL
ORDER BY n_images DESC, dataset, width_px, height_px, mode, label
