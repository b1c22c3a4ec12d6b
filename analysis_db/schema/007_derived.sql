-- Derived questions: what changed from one phase to the next, and published beside measured.
-- Nothing is stored here: every view is computed from the facts when it is asked.

-- The mix of every phase and run, by category and by bucket. Where a phase has several runs, the
-- one that the training went on with is the one whose tokens are those of the phase: its end is
-- the checkpoint. No run is chosen where none fits alone.
CREATE VIEW data.mix_part AS
WITH part AS (
    SELECT suite, phase, run, 'category' AS part_of, coalesce(category, 'not classified') AS part,
           sum(tokens_b) AS tokens_b
    FROM data.data_mix GROUP BY ALL
    UNION ALL
    SELECT suite, phase, run, 'bucket', coalesce(bucket, 'not classified'), sum(tokens_b)
    FROM data.data_mix GROUP BY ALL
),
total AS (
    SELECT m.suite, m.phase, m.run, sum(m.tokens_b) AS tokens_b,
           abs(sum(m.tokens_b) / nullif(any_value(p.phase_tokens_b), 0) - 1) < 0.005 AS fits
    FROM data.data_mix m
    LEFT JOIN data.phase p ON p.suite = m.suite AND p.phase = m.phase
    GROUP BY m.suite, m.phase, m.run
),
line AS (
    SELECT suite, phase, run, tokens_b,
           count(*) OVER same = 1
           OR (coalesce(fits, false) AND count(*) FILTER (fits) OVER same = 1) AS main_line
    FROM total
    WINDOW same AS (PARTITION BY suite, phase)
)
SELECT l.suite, l.phase, l.run, l.main_line, k.part_of, k.part,
       coalesce(p.tokens_b, 0) / nullif(l.tokens_b, 0) AS share
FROM line l
JOIN (SELECT DISTINCT suite, part_of, part FROM part) k ON k.suite = l.suite
LEFT JOIN part p ON p.suite = l.suite AND p.phase = l.phase AND p.run IS NOT DISTINCT FROM l.run
                AND p.part_of = k.part_of AND p.part = k.part;

-- Scores on one scale. Published scores are printed in percent; lm-eval gives rates from 0 to 1.
CREATE VIEW data.scaled_score AS
SELECT suite, phase, model, task, metric, value, stderr, n, shots, source, run_id, setting,
       imported_from,
       source = 'published' OR regexp_matches(
           metric, '^(acc|acc_norm|exact_match|em|f1|mcc|maj@.*|pass@.*|pass_at_.*)$') AS is_rate,
       CASE WHEN source = 'published' THEN 1 WHEN is_rate THEN 100 ELSE 1 END AS factor,
       CASE WHEN is_rate THEN 'percent' ELSE 'as measured' END AS unit
FROM benchmarks;

CREATE VIEW metric_changes AS
WITH measured AS (
    SELECT r.suite, r.phase, r.probe, m.metric, m.view, m.layer, m.module, m.head, m.domain,
           m.value, r.run_id, p.tokens_b, (r.probe_version, r.settings_hash, r.dtype) AS way
    FROM data.measurement m
    JOIN data.newest_run r USING (run_id)
    LEFT JOIN data.phase p ON p.suite = r.suite AND p.phase = r.phase
    WHERE m.value IS NOT NULL
)
SELECT suite, lag(phase) OVER series AS phase_a, phase AS phase_b,
       phase - lag(phase) OVER series AS phases_apart, probe, metric, view, layer, module, head,
       domain, lag(value) OVER series AS value_a, value AS value_b,
       value - lag(value) OVER series AS change,
       (value - lag(value) OVER series) / nullif(abs(lag(value) OVER series), 0)
           AS relative_change,
       (value - lag(value) OVER series) / nullif(tokens_b - lag(tokens_b) OVER series, 0)
           AS change_per_btoken,
       way IS NOT DISTINCT FROM lag(way) OVER series AS same_way,
       lag(run_id) OVER series AS run_id_a, run_id AS run_id_b
FROM measured
WINDOW series AS (
    PARTITION BY suite, probe, metric, view, layer, module, head, domain ORDER BY phase
)
QUALIFY lag(phase) OVER series IS NOT NULL;

CREATE VIEW mix_changes AS
WITH pair AS (
    SELECT suite, lag(phase) OVER (PARTITION BY suite ORDER BY phase) AS phase_a, phase AS phase_b
    FROM (SELECT DISTINCT suite, phase FROM data.data_mix)
    QUALIFY phase_a IS NOT NULL
)
SELECT p.suite, p.phase_a, a.run AS run_a, p.phase_b, b.run AS run_b,
       p.phase_b - p.phase_a AS phases_apart, a.main_line AND b.main_line AS main_line, a.part_of,
       a.part, a.share AS share_a, b.share AS share_b, b.share - a.share AS change
FROM pair p
JOIN data.mix_part a ON a.suite = p.suite AND a.phase = p.phase_a
JOIN data.mix_part b ON b.suite = p.suite AND b.phase = p.phase_b AND b.part_of = a.part_of
                    AND b.part = a.part;

CREATE VIEW score_changes AS
WITH score AS (
    SELECT suite, phase, model, task, metric, value, stderr, n, shots, source, setting, factor, unit
    FROM data.scaled_score WHERE phase IS NOT NULL
),
pair AS (
    SELECT suite, source, task, metric, n, shots, setting,
           lag(phase) OVER (
               PARTITION BY suite, source, task, metric, n, shots, setting ORDER BY phase
           ) AS phase_a,
           phase AS phase_b
    FROM (SELECT DISTINCT suite, source, task, metric, n, shots, setting, phase FROM score)
    QUALIFY phase_a IS NOT NULL
)
SELECT p.suite, p.phase_a, p.phase_b, p.phase_b - p.phase_a AS phases_apart, p.source, p.task,
       p.metric, p.n, p.shots, p.setting, a.model AS model_a, b.model AS model_b,
       a.value * a.factor AS value_a, b.value * b.factor AS value_b,
       b.value * b.factor - a.value * a.factor AS change,
       sqrt((a.stderr * a.factor) ** 2 + (b.stderr * b.factor) ** 2) AS stderr_of_independent,
       a.unit
FROM pair p
JOIN score a ON a.suite = p.suite AND a.source = p.source AND a.task = p.task
            AND a.metric = p.metric AND a.phase = p.phase_a AND a.n IS NOT DISTINCT FROM p.n
            AND a.shots IS NOT DISTINCT FROM p.shots AND a.setting IS NOT DISTINCT FROM p.setting
JOIN score b ON b.suite = p.suite AND b.source = p.source AND b.task = p.task
            AND b.metric = p.metric AND b.phase = p.phase_b AND b.n IS NOT DISTINCT FROM p.n
            AND b.shots IS NOT DISTINCT FROM p.shots AND b.setting IS NOT DISTINCT FROM p.setting;

CREATE VIEW published_and_measured AS
WITH named AS ( -- lm-eval's task -> the name in print, where letters and digits alone do not agree
    FROM (VALUES ('lambadaopenai', 'lambada'), ('lambadastandard', 'lambada'),
                 ('gsm8kcot', 'gsm8k'), ('minervamath500', 'math500'),
                 ('hendrycksmath500', 'math500'), ('cevalvalid', 'ceval'),
                 ('storycloze2016', 'storycloze'), ('storycloze2018', 'storycloze'),
                 ('arcc', 'arcchallenge'), ('arce', 'arceasy'), ('race', 'racehigh'))
        AS t (other, name)
),
score AS (
    SELECT s.*, coalesce(n.name, plain) AS benchmark
    FROM (SELECT *, regexp_replace(lower(task), '[^a-z0-9]', '', 'g') AS plain
          FROM data.scaled_score WHERE is_rate AND phase IS NOT NULL) s
    LEFT JOIN named n ON n.other = s.plain
),
published AS (SELECT * FROM score WHERE source = 'published'),
measured AS (SELECT * FROM score WHERE source <> 'published')
SELECT coalesce(p.suite, m.suite) AS suite, coalesce(p.phase, m.phase) AS phase,
       coalesce(p.benchmark, m.benchmark) AS benchmark,
       p.task AS published_as, p.model AS published_model, p.setting AS published_setting,
       p.shots AS published_shots, p.value AS published_percent,
       m.task AS measured_task, m.source AS measured_source, m.metric AS measured_metric,
       m.shots AS measured_shots, m.value * m.factor AS measured_percent,
       m.stderr * m.factor AS measured_stderr, m.n AS measured_n,
       m.value * m.factor - p.value AS difference, p.shots = m.shots AS same_shots, m.run_id,
       m.imported_from
FROM published p
FULL JOIN measured m ON m.suite = p.suite AND m.phase = p.phase AND m.benchmark = p.benchmark;

COMMENT ON VIEW metric_changes IS 'Change of every measured value from a phase to the next one that has it. A phase without a value is passed over: phases_apart is then 2 or more, and the change is one over that many phases. Compare weights in the view effective: stored ones jump where scales are folded in.';
COMMENT ON VIEW mix_changes IS 'Change of the share of each category and bucket of the data mix from a phase to the next one with a mix. A phase with two runs has a row for each: take main_line for the run that the training went on with.';
COMMENT ON VIEW score_changes IS 'Change of benchmark scores from a phase to the next one that has the same source, task, metric, number of documents, shots and setting. Sources are never mixed; the models are named, since a published score may be of a run that the training did not go on with, such as the 4K run of YuLan-Mini''s phase 26.';
COMMENT ON VIEW published_and_measured IS 'Scores of the same benchmark, published and measured, side by side in percent; a row with one of them alone where the other is missing. Harness, prompts and shots differ: compare trends, not digits.';

COMMENT ON COLUMN metric_changes.suite IS 'Name of the suite.';
COMMENT ON COLUMN metric_changes.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN metric_changes.phase_b IS 'The later phase.';
COMMENT ON COLUMN metric_changes.phases_apart IS 'phase_b - phase_a; above 1 where phases between have no value.';
COMMENT ON COLUMN metric_changes.probe IS 'Id of the probe.';
COMMENT ON COLUMN metric_changes.metric IS 'Id of the metric.';
COMMENT ON COLUMN metric_changes.view IS 'stored or effective for weights, else NULL.';
COMMENT ON COLUMN metric_changes.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN metric_changes.module IS 'Kind of module; NULL for the model as a whole.';
COMMENT ON COLUMN metric_changes.head IS 'Attention head, from 0; NULL where it does not apply.';
COMMENT ON COLUMN metric_changes.domain IS 'Domain of the text; NULL where it does not apply.';
COMMENT ON COLUMN metric_changes.value_a IS 'Value at phase_a.';
COMMENT ON COLUMN metric_changes.value_b IS 'Value at phase_b.';
COMMENT ON COLUMN metric_changes.change IS 'value_b - value_a.';
COMMENT ON COLUMN metric_changes.relative_change IS 'change / |value_a|; NULL where value_a is 0.';
COMMENT ON COLUMN metric_changes.change_per_btoken IS 'change for each billion tokens between the checkpoints; NULL where their tokens are not known.';
COMMENT ON COLUMN metric_changes.same_way IS 'Whether probe version, settings and dtype of both runs agree; where not, part of the change may be theirs.';
COMMENT ON COLUMN metric_changes.run_id_a IS 'The run that measured value_a.';
COMMENT ON COLUMN metric_changes.run_id_b IS 'The run that measured value_b.';

COMMENT ON COLUMN mix_changes.suite IS 'Name of the suite.';
COMMENT ON COLUMN mix_changes.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN mix_changes.run_a IS 'Run of the earlier phase.';
COMMENT ON COLUMN mix_changes.phase_b IS 'The later phase.';
COMMENT ON COLUMN mix_changes.run_b IS 'Run of the later phase.';
COMMENT ON COLUMN mix_changes.phases_apart IS 'phase_b - phase_a; above 1 where the mix of phases between is not known.';
COMMENT ON COLUMN mix_changes.main_line IS 'Whether both runs are those that the training went on with: the only run of the phase, or the one whose tokens alone are within 0.5 % of the phase''s.';
COMMENT ON COLUMN mix_changes.part_of IS 'category or bucket.';
COMMENT ON COLUMN mix_changes.part IS 'Name of the category or bucket.';
COMMENT ON COLUMN mix_changes.share_a IS 'Share of the tokens of phase_a, from 0 to 1; 0 where it has none.';
COMMENT ON COLUMN mix_changes.share_b IS 'Share of the tokens of phase_b.';
COMMENT ON COLUMN mix_changes.change IS 'share_b - share_a.';

COMMENT ON COLUMN score_changes.suite IS 'Name of the suite.';
COMMENT ON COLUMN score_changes.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN score_changes.phase_b IS 'The later phase.';
COMMENT ON COLUMN score_changes.phases_apart IS 'phase_b - phase_a; above 1 where phases between have no score.';
COMMENT ON COLUMN score_changes.source IS 'measured, imported or published, of both scores.';
COMMENT ON COLUMN score_changes.task IS 'Name of the task.';
COMMENT ON COLUMN score_changes.metric IS 'Such as acc or pass@1.';
COMMENT ON COLUMN score_changes.n IS 'Number of documents of both; NULL where it is not known.';
COMMENT ON COLUMN score_changes.shots IS 'Examples in the prompt.';
COMMENT ON COLUMN score_changes.setting IS 'Published: the evaluation setting as printed.';
COMMENT ON COLUMN score_changes.model_a IS 'Model whose score is value_a.';
COMMENT ON COLUMN score_changes.model_b IS 'Model whose score is value_b.';
COMMENT ON COLUMN score_changes.value_a IS 'Score at phase_a, in the unit.';
COMMENT ON COLUMN score_changes.value_b IS 'Score at phase_b, in the unit.';
COMMENT ON COLUMN score_changes.change IS 'value_b - value_a.';
COMMENT ON COLUMN score_changes.stderr_of_independent IS 'Standard error of the change if the documents of the two scores were drawn apart; they are the same, so it is an upper bound when the two agree on documents. NULL for published scores.';
COMMENT ON COLUMN score_changes.unit IS 'percent for rates, whatever their source; as measured for the rest.';

COMMENT ON COLUMN published_and_measured.suite IS 'Name of the suite.';
COMMENT ON COLUMN published_and_measured.phase IS 'Number of the phase.';
COMMENT ON COLUMN published_and_measured.benchmark IS 'Name that both go by, in small letters and digits.';
COMMENT ON COLUMN published_and_measured.published_as IS 'Published: name in print; NULL when nothing was published.';
COMMENT ON COLUMN published_and_measured.published_model IS 'Published: model whose score it is.';
COMMENT ON COLUMN published_and_measured.published_setting IS 'Published: the evaluation setting as printed.';
COMMENT ON COLUMN published_and_measured.published_shots IS 'Published: examples in the prompt; NULL where the authors do not say.';
COMMENT ON COLUMN published_and_measured.published_percent IS 'Published: score as printed, in percent.';
COMMENT ON COLUMN published_and_measured.measured_task IS 'Measured: task of lm-eval; NULL when nothing was measured.';
COMMENT ON COLUMN published_and_measured.measured_source IS 'measured (here) or imported (lm-eval run elsewhere).';
COMMENT ON COLUMN published_and_measured.measured_metric IS 'Measured: metric of lm-eval.';
COMMENT ON COLUMN published_and_measured.measured_shots IS 'Measured: examples in the prompt.';
COMMENT ON COLUMN published_and_measured.measured_percent IS 'Measured: 100 times the rate.';
COMMENT ON COLUMN published_and_measured.measured_stderr IS 'Measured: standard error over the documents, in percentage points.';
COMMENT ON COLUMN published_and_measured.measured_n IS 'Measured: number of documents.';
COMMENT ON COLUMN published_and_measured.difference IS 'Measured less published, in percentage points; NULL where one is missing.';
COMMENT ON COLUMN published_and_measured.same_shots IS 'Whether both have the same number of examples in the prompt; NULL where one does not say.';
COMMENT ON COLUMN published_and_measured.run_id IS 'The run that measured it; NULL where nothing was measured here.';
COMMENT ON COLUMN published_and_measured.imported_from IS 'File of `workbench import`; NULL unless imported.';
