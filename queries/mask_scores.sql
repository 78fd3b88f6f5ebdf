-- Each image under each predicted mask: Dice, HD95, NSD and lesions found, beside class, group and lesion size.
-- $source_id: the masks of one segmenter, prompt and part (default: all)
-- $dataset: one data set (default: all)
SELECT r.source_id, r.image_id, r.label, coalesce(s.group_id, r.image_id) AS group_id, r.lesion_area_px, r.lesion_share,
       p.area_px AS predicted_area_px, r.dice, r.hd95_px, r.nsd_3px, r.hd_bussam_compat, r.missed, r.false_positive
FROM mask_results r
LEFT JOIN splits s ON s.split_id = r.split_id AND s.image_id = r.image_id
LEFT JOIN masks p ON p.image_id = r.image_id AND p.source_id = r.source_id
WHERE ($source_id IS NULL OR r.source_id = $source_id) AND ($dataset IS NULL OR r.dataset = $dataset)
ORDER BY r.source_id, r.image_id
