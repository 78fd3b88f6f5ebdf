-- What each trained segmenter lost and gained, epoch by epoch: loss on training, Dice on validation lesions.
-- Validation is at the 256 x 256 pixels of the network; the epoch of the best Dice is the one that was kept.
-- $segmenter_id: one trained segmenter (default: all)
SELECT s.segmenter, s.init, s.dataset, s.segmenter_id, CAST(split_part(m.subject, ':', 2) AS INTEGER) AS epoch,
       max(m.value) FILTER (m.metric = 'train_loss') AS train_loss,
       max(m.value) FILTER (m.metric = 'val_dice') AS val_dice,
       max(m.value) FILTER (m.metric = 'learning_rate') AS learning_rate,
       epoch = s.best_epoch AS kept
FROM segmenters s JOIN metrics m ON m.run_id = s.segmenter_id AND m.subject LIKE 'epoch:%'
WHERE $segmenter_id IS NULL OR s.segmenter_id = $segmenter_id
GROUP BY ALL
ORDER BY s.segmenter, s.segmenter_id, epoch
