-- Prompts from the best to the worst alone, and the set without each; ranked on test for looking, not for choosing.
-- $prompt_set: name or set id of one prompt set (default: all)
-- $model: one model (default: all)
-- $part: val or test (default: val where the run consulted it, else test)
-- $dataset: one data set (default: all)
-- $split_id: one split (default: all)
-- Whatever is chosen by its score on test images can no longer be tested on them; --rank val chooses on others.
WITH scored AS (
    SELECT
        r.*, split_part(m.subject, ':', 1) AS part, substr(m.subject, strpos(m.subject, ':') + 1) AS prompt_id,
        m.metric, m.value, m.n_used
    FROM metrics m JOIN current_runs r USING (run_id)
    WHERE (m.subject LIKE 'val:%' OR m.subject LIKE 'test:%')
        AND ($dataset IS NULL OR r.dataset = $dataset) AND ($split_id IS NULL OR r.split_id = $split_id)
        AND ($model IS NULL OR r.model = $model)
), wanted AS (
    SELECT *, coalesce($part, CASE WHEN bool_or(part = 'val') OVER (PARTITION BY run_id) THEN 'val' ELSE 'test' END)
        AS shown
    FROM scored
), prompted AS (
    SELECT
        s.dataset, s.method, s.model, s.recipe, s.protocol, p.prompt_set, s.part, p.class, p.rank AS place, p.text,
        max(s.value) FILTER (s.metric = 'auroc') AS auroc,
        max(s.value) FILTER (s.metric = 'auroc_without') AS auroc_without,
        max(s.value) FILTER (s.metric = 'auroc_added') AS auroc_added,
        max(s.value) FILTER (s.metric = 'macro_f1_without') AS macro_f1_without,
        max(s.value) FILTER (s.metric = 'macro_f1_added') AS macro_f1_added,
        list_contains(CAST(json_extract(s.details, '$.prompts') AS VARCHAR[]), s.prompt_id) AS chosen,
        max(s.n_used) AS n_images, s.prompt_id, s.split_id, s.model_id, s.recipe_id, s.parameters
    FROM wanted s JOIN prompts p USING (prompt_id)
    WHERE s.part = s.shown AND ($prompt_set IS NULL OR $prompt_set IN (p.prompt_set, p.set_id))
    GROUP BY ALL
)
SELECT
    dataset, method, model, recipe, protocol, prompt_set, part, class,
    row_number() OVER (
        PARTITION BY dataset, split_id, method, model_id, recipe_id, protocol, parameters, part, prompt_set, class
        ORDER BY round(auroc, 12) DESC NULLS LAST, place
    ) AS rank,
    text, auroc, auroc_without, auroc_added, macro_f1_without, macro_f1_added, chosen, n_images, prompt_id, split_id,
    model_id, recipe_id, parameters
FROM prompted
ORDER BY dataset, split_id, method, model_id, recipe_id, protocol, parameters, prompt_set, part, class, rank
