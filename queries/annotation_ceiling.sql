-- How well the true masks of near-duplicate images agree, laid over each other: the ceiling of any segmenter.
-- Pairs of equal pixels and pairs that are merely alike stand apart; n_equal of them have the very same mask,
-- n_apart no pixel in common. Distances are in pixels of the first image. Pairs of one group are not independent:
-- n_groups says of how many groups they are.
-- $dataset: one data set (default: all)
WITH pairs AS (
    SELECT m.subject, i.dataset, c.group_id,
           CASE WHEN i.pixels_sha256 = o.pixels_sha256 THEN 'identical' ELSE 'similar' END AS kind,
           max(m.value) FILTER (m.metric = 'dice') AS dice,
           max(m.value) FILTER (m.metric = 'hd95') AS hd95,
           max(m.value) FILTER (m.metric = 'nsd_3px') AS nsd
    FROM metrics m
    JOIN images i ON i.image_id = split_part(m.subject, '|', 1)
    JOIN images o ON o.image_id = split_part(m.subject, '|', 2)
    LEFT JOIN current_groups c ON c.image_id = i.image_id
    WHERE m.run_id LIKE 'annotation-%' AND ($dataset IS NULL OR i.dataset = $dataset)
    GROUP BY ALL
)
SELECT dataset, coalesce(kind, 'all') AS pairs, count(*) AS n_pairs, count(DISTINCT group_id) AS n_groups,
       count(*) FILTER (dice = 1) AS n_equal,
       count(*) FILTER (dice = 0) AS n_apart,
       round(quantile_cont(dice, 0.25), 4) AS dice_q1,
       round(median(dice), 4) AS dice_median,
       round(quantile_cont(dice, 0.75), 4) AS dice_q3,
       round(avg(dice), 4) AS dice_mean,
       round(median(hd95), 2) AS hd95_px_median,
       round(avg(hd95), 2) AS hd95_px_mean,
       round(median(nsd), 4) AS nsd_3px_median,
       round(avg(nsd), 4) AS nsd_3px_mean
FROM pairs
GROUP BY GROUPING SETS ((dataset), (dataset, kind))
ORDER BY dataset, grouping(kind) DESC, kind
