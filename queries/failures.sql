-- What jobs could not do, newest first: the input, why and when.
-- $job: one job, such as ingest (default: all)
SELECT job, key, reason, source, failed_at FROM failures WHERE $job IS NULL OR job = $job ORDER BY failed_at DESC, job, key
