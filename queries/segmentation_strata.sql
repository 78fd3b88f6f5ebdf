-- Masks by size of the lesion, as a share of the image: Dice, distances and misses, small lesions first.
-- Small is below 0.03 of the image, medium below 0.10; all lesions of an image count together.
-- $dataset: one data set (default: all)
-- $segmenter: one kind of segmenter (default: all)
-- $part: test or val (default: both)
WITH scored AS (
    SELECT g.segmenter, g.init, g.prompt, g.proposer, g.part, g.segmenter_id, g.source_id, m.subject,
           t.area_px / (i.width_px::DOUBLE * i.height_px) AS share,
           max(m.value) FILTER (m.metric = 'dice') AS dice,
           max(m.value) FILTER (m.metric = 'hd95') AS hd95,
           max(m.value) FILTER (m.metric = 'nsd_3px') AS nsd,
           max(m.value) FILTER (m.metric = 'missed') AS missed
    FROM segmentations g JOIN metrics m ON m.run_id = g.source_id
    JOIN images i ON i.image_id = m.subject
    JOIN masks t ON t.image_id = m.subject AND t.source_id = 'truth' AND NOT t.is_empty
    WHERE ($dataset IS NULL OR g.dataset = $dataset) AND ($segmenter IS NULL OR g.segmenter = $segmenter)
        AND ($part IS NULL OR g.part = $part)
    GROUP BY ALL
)
SELECT segmenter, init, prompt, proposer, part,
       CASE WHEN share < 0.03 THEN 'small' WHEN share < 0.10 THEN 'medium' ELSE 'large' END AS stratum,
       count(*) AS n_images,
       CAST(sum(missed) AS BIGINT) AS n_missed,
       round(avg(dice), 4) AS dice,
       round(median(dice), 4) AS dice_median,
       round(avg(hd95), 2) AS hd95_px,
       round(avg(nsd), 4) AS nsd_3px,
       round(min(share), 4) AS share_min,
       round(max(share), 4) AS share_max,
       segmenter_id, source_id
FROM scored
GROUP BY ALL
ORDER BY part, segmenter, prompt, source_id, share_min
