-- How many of each thing the store holds, stage by stage: the numbers of the report's picture of the data's way.
-- $dataset: name of one data set (default: all)
-- $split_id: the split whose parts, episodes and runs are counted (default: each)
-- $grouping: the grouping whose groups are counted (default: the newest of each data set)
-- `of` is the grouping or the split that a number belongs to: numbers of two of them do not add up.
WITH counted AS (
    SELECT dataset, 'images' AS stage, '' AS part, '' AS of, count(*) AS n FROM images GROUP BY dataset
    UNION ALL
    SELECT i.dataset, 'masks', m.source_id, '', count(*) FROM masks m JOIN images i USING (image_id) GROUP BY ALL
    UNION ALL
    SELECT dataset, 'groups', p.part, grouping, count(DISTINCT group_id) FILTER (size > 1 OR p.part = 'all')
    FROM groups, (VALUES ('all'), ('of several images')) p(part)
    WHERE CASE
        WHEN $grouping IS NULL THEN grouping IN (SELECT grouping FROM current_groups) ELSE grouping = $grouping END
    GROUP BY ALL
    UNION ALL
    SELECT dataset, 'splits', '', '', count(DISTINCT split_id)
    FROM splits WHERE $split_id IS NULL OR split_id = $split_id GROUP BY dataset
    UNION ALL
    SELECT dataset, 'parts', part, split_id, count(*) FROM splits GROUP BY ALL
    UNION ALL
    SELECT dataset, 'episodes', '', split_id, count(DISTINCT episode_id) FROM episodes GROUP BY ALL
    UNION ALL
    SELECT dataset, 'shots', CAST(shots AS VARCHAR), split_id, count(DISTINCT episode_id)
    FROM episodes WHERE shots IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT dataset, 'ratios', CAST(ratio AS VARCHAR), split_id, count(DISTINCT episode_id)
    FROM episodes WHERE shots IS NULL AND ratio IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT i.dataset, 'preprocessed', p.recipe_id, '', count(*)
    FROM preprocessed p JOIN images i USING (image_id) GROUP BY ALL
    UNION ALL
    SELECT i.dataset, 'embeddings', e.model_id || ' on ' || e.recipe_id, '', count(*)
    FROM embeddings e JOIN images i USING (image_id) GROUP BY ALL
    UNION ALL
    SELECT dataset, 'runs', method, split_id, count(*) FROM current_runs GROUP BY ALL
    UNION ALL
    SELECT r.dataset, 'predictions', '', r.split_id, count(*)
    FROM predictions p JOIN current_runs r USING (run_id) GROUP BY ALL
)
SELECT dataset, stage, part, of, n FROM counted
WHERE ($dataset IS NULL OR dataset = $dataset)
    AND (stage NOT IN ('parts', 'episodes', 'shots', 'ratios', 'runs', 'predictions') OR $split_id IS NULL OR of = $split_id)
ORDER BY ALL
