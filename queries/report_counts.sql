-- How many of each thing the store holds, stage by stage: the numbers of the report's picture of the data's way.
-- $dataset: name of one data set (default: all)
-- $split_id: the split whose parts are counted (default: all)
-- $grouping: the grouping whose groups are counted (default: all)
SELECT 'images' AS stage, '' AS part, count(*) AS n FROM images WHERE $dataset IS NULL OR dataset = $dataset
UNION ALL
SELECT 'masks', m.source_id, count(*)
FROM masks m JOIN images i USING (image_id) WHERE $dataset IS NULL OR i.dataset = $dataset GROUP BY m.source_id
UNION ALL
SELECT 'groups', 'all', count(DISTINCT group_id)
FROM groups WHERE ($dataset IS NULL OR dataset = $dataset) AND ($grouping IS NULL OR grouping = $grouping)
UNION ALL
SELECT 'groups', 'of several images', count(DISTINCT group_id) FROM groups
WHERE size > 1 AND ($dataset IS NULL OR dataset = $dataset) AND ($grouping IS NULL OR grouping = $grouping)
UNION ALL
SELECT 'splits', '', count(DISTINCT split_id)
FROM splits WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
UNION ALL
SELECT 'parts', part, count(*) FROM splits
WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id) GROUP BY part
UNION ALL
SELECT 'episodes', '', count(DISTINCT episode_id)
FROM episodes WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
UNION ALL
SELECT 'shots', CAST(shots AS VARCHAR), count(DISTINCT episode_id) FROM episodes
WHERE ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id) GROUP BY shots
UNION ALL
SELECT 'preprocessed', p.recipe_id, count(*)
FROM preprocessed p JOIN images i USING (image_id) WHERE $dataset IS NULL OR i.dataset = $dataset GROUP BY p.recipe_id
UNION ALL
SELECT 'embeddings', e.model_id || ' on ' || e.recipe_id, count(*)
FROM embeddings e JOIN images i USING (image_id) WHERE $dataset IS NULL OR i.dataset = $dataset GROUP BY ALL
UNION ALL
SELECT 'runs', method, count(*) FROM runs
WHERE status = 'done' AND ($dataset IS NULL OR dataset = $dataset) AND ($split_id IS NULL OR split_id = $split_id)
GROUP BY method
UNION ALL
SELECT 'predictions', '', count(*) FROM predictions p JOIN runs r USING (run_id)
WHERE r.status = 'done' AND ($dataset IS NULL OR r.dataset = $dataset)
    AND ($split_id IS NULL OR r.split_id = $split_id)
ORDER BY ALL
