-- Masks by size of the lesion, as a share of the image: Dice, distances and misses, small lesions first.
-- Small is below 0.03 of the image, medium below 0.10; all lesions of an image count together.
-- $dataset: one data set (default: all)
-- $segmenter: one kind of segmenter (default: all)
-- $part: test or val (default: both)
SELECT segmenter, init, prompt, proposer, part,
       CASE WHEN lesion_share < 0.03 THEN 'small' WHEN lesion_share < 0.10 THEN 'medium' ELSE 'large' END AS stratum,
       count(*) AS n_images,
       CAST(sum(missed) AS BIGINT) AS n_missed,
       round(avg(r.dice), 4) AS dice,
       round(median(r.dice), 4) AS dice_median,
       round(avg(r.hd95_px), 2) AS hd95_px,
       round(avg(r.nsd_3px), 4) AS nsd_3px,
       round(min(lesion_share), 4) AS share_min,
       round(max(lesion_share), 4) AS share_max,
       segmenter_id, source_id
FROM mask_results r
WHERE lesion_area_px > 0 AND ($dataset IS NULL OR dataset = $dataset)
    AND ($segmenter IS NULL OR segmenter = $segmenter) AND ($part IS NULL OR part = $part)
GROUP BY ALL
ORDER BY part, segmenter, prompt, source_id, share_min
