-- Masks of each segmenter, prompt and part: means over images, and over how many of them.
-- Dice is over images with a lesion or a mask: 0 for each missed lesion and each normal image that got a mask. Lesions
-- are counted one by one: n_found of n_lesions met by a mask of an IoU of 0.1, and n_false_marks that meet none.
WITH counted AS (
    SELECT source_id, CAST(sum(r.n_lesions) AS BIGINT) AS n_lesions, CAST(sum(r.n_found) AS BIGINT) AS n_found,
           CAST(sum(r.n_false_marks) AS BIGINT) AS n_false_marks
    FROM mask_results r GROUP BY source_id
)
SELECT g.segmenter, g.prompt, g.part, g.n_images, g.n_missed, g.n_false_positive,
       max(m.n_used) FILTER (m.metric = 'dice') AS n_dice,
       round(max(m.value) FILTER (m.metric = 'dice'), 4) AS dice,
       round(max(m.value) FILTER (m.metric = 'iou'), 4) AS iou,
       round(max(m.value) FILTER (m.metric = 'hd95'), 2) AS hd95_px,
       round(max(m.value) FILTER (m.metric = 'assd'), 2) AS assd_px,
       round(max(m.value) FILTER (m.metric = 'nsd_3px'), 4) AS nsd_3px,
       c.n_lesions, c.n_found, round(c.n_found / nullif(c.n_lesions, 0), 4) AS lesion_recall, c.n_false_marks,
       g.init, g.proposer, g.segmenter_id, g.source_id
FROM current_segmentations g JOIN metrics m ON m.run_id = g.source_id AND m.subject = g.part
LEFT JOIN counted c ON c.source_id = g.source_id
GROUP BY ALL
ORDER BY g.part, dice DESC, g.source_id
