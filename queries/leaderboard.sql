-- Mean and spread over seeds of a metric for each method, model, recipe, protocol and shots.
-- $metric: name of the metric (default: macro_f1)
-- $dataset: one data set (default: all)
-- $shots: one number of shots (default: all)
SELECT dataset, method, model, recipe, protocol, shots, metric, count(*)::INTEGER AS n_seeds,
       avg(value) AS mean, stddev_samp(value) AS sd, min(value) AS worst, max(value) AS best,
       avg(exposure_support) AS exposure_support, avg(exposure_val) AS exposure_val
FROM results
WHERE subject = 'test' AND class = '' AND metric = coalesce($metric, 'macro_f1')
  AND dataset = coalesce($dataset, dataset) AND shots = coalesce(CAST($shots AS INTEGER), shots)
GROUP BY ALL
ORDER BY dataset, shots, mean DESC, method, model, recipe, protocol
