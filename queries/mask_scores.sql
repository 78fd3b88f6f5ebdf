-- Each image under each predicted mask: Dice, HD95, NSD and lesions found, beside class, group and lesion size.
-- $source_id: the masks of one segmenter, prompt and part (default: all)
-- $dataset: one data set (default: all)
SELECT g.source_id, m.subject AS image_id, i.label, coalesce(s.group_id, m.subject) AS group_id,
       t.area_px AS lesion_area_px,
       t.area_px / (i.width_px::DOUBLE * i.height_px) AS lesion_share,
       p.area_px AS predicted_area_px,
       max(m.value) FILTER (m.metric = 'dice') AS dice,
       max(m.value) FILTER (m.metric = 'hd95') AS hd95_px,
       max(m.value) FILTER (m.metric = 'nsd_3px') AS nsd_3px,
       max(m.value) FILTER (m.metric = 'hd_bussam_compat') AS hd_bussam_compat,
       max(m.value) FILTER (m.metric = 'missed') AS missed,
       max(m.value) FILTER (m.metric = 'false_positive') AS false_positive
FROM segmentations g JOIN metrics m ON m.run_id = g.source_id
JOIN images i ON i.image_id = m.subject
LEFT JOIN splits s ON s.split_id = g.split_id AND s.image_id = m.subject
LEFT JOIN masks t ON t.image_id = m.subject AND t.source_id = 'truth'
LEFT JOIN masks p ON p.image_id = m.subject AND p.source_id = g.source_id
WHERE ($source_id IS NULL OR g.source_id = $source_id) AND ($dataset IS NULL OR g.dataset = $dataset)
GROUP BY ALL
ORDER BY g.source_id, m.subject
