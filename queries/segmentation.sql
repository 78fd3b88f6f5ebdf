-- Masks of each segmenter, prompt and part: means over images, and over how many of them.
-- Dice is over images with a lesion or a mask: 0 for each missed lesion and each normal image that got a mask.
SELECT g.segmenter, g.init, g.prompt, g.proposer, g.part, g.n_images, g.n_missed, g.n_false_positive,
       max(m.n_used) FILTER (m.metric = 'dice') AS n_dice,
       round(max(m.value) FILTER (m.metric = 'dice'), 4) AS dice,
       round(max(m.value) FILTER (m.metric = 'iou'), 4) AS iou,
       round(max(m.value) FILTER (m.metric = 'hd95'), 2) AS hd95_px,
       round(max(m.value) FILTER (m.metric = 'assd'), 2) AS assd_px,
       round(max(m.value) FILTER (m.metric = 'nsd_3px'), 4) AS nsd_3px,
       g.segmenter_id, g.source_id
FROM segmentations g JOIN metrics m ON m.run_id = g.source_id AND m.subject = g.part
GROUP BY ALL
ORDER BY g.part, dice DESC, g.source_id
