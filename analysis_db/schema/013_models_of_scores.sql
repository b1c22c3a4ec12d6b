-- Imported scores may be of another model than the suite's, or of one that no file names. Scores of
-- different models are shown, but never differenced, joined or correlated with each other.
ALTER TABLE data.imported_score ADD COLUMN own BOOLEAN;
COMMENT ON COLUMN data.imported_score.own IS 'Whether it is of the phase''s own checkpoint; NULL where no file names the model.';

-- What was imported before: the repository of its phase is the suite's own, other names are not.
UPDATE data.imported_score AS i SET own = EXISTS (
    SELECT 1 FROM data.phase p
    WHERE p.suite = i.suite AND p.phase = i.phase AND lower(p.repo_id) = lower(i.model)
)
WHERE i.model IS NOT NULL;

CREATE OR REPLACE VIEW benchmarks AS
SELECT * EXCLUDE (started_at) FROM (
    SELECT r.suite, r.phase, s.title AS model, b.task, b.metric, b.value, b.stderr, b.n, b.shots,
           'measured' AS source, b.higher_is_better, b.task_version, b.task_hash,
           b.harness_version, r.run_id, NULL AS setting, NULL AS footnote, NULL AS imported_from,
           b.parent, true AS own, NULL AS file_sha256, r.started_at
    FROM data.benchmark b
    JOIN data.newest_run r USING (run_id)
    LEFT JOIN data.suite s ON s.suite = r.suite
    WHERE b.value IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY r.suite, r.phase, b.task, b.metric, b.n, b.shots
        ORDER BY r.started_at DESC, r.run_id
    ) = 1
)
UNION ALL
SELECT suite, phase, model, benchmark,
       coalesce(nullif(regexp_extract(setting, '^(acc_norm|acc|maj@\d+|pass@\d+)'), ''), 'score'),
       score, NULL, NULL, try_cast(regexp_extract(setting, '(\d+)[- ]shot', 1) AS INTEGER),
       'published', true, NULL, NULL, NULL, NULL, setting, footnote, imported_from, NULL,
       phase IS NOT NULL, NULL
FROM data.published_score
WHERE score IS NOT NULL
UNION ALL
SELECT i.suite, i.phase, i.model, i.task, i.metric, i.value, i.stderr, i.n,
       i.shots, 'imported', i.higher_is_better, i.task_version, i.task_hash, i.harness_version,
       NULL, NULL, NULL, i.imported_from, NULL, i.own, i.file_sha256
FROM data.imported_score i
WHERE i.value IS NOT NULL;

-- Scores on one scale. Published scores are printed in percent; lm-eval gives rates from 0 to 1.
-- same_model is equal for scores that are known to be of one model, and for no others: those of an
-- unknown one only within a file.
CREATE OR REPLACE VIEW data.scaled_score AS
SELECT suite, phase, model, task, metric, value, stderr, n, shots, source, run_id, setting,
       imported_from,
       source = 'published' OR regexp_matches(
           metric, '^(acc|acc_norm|exact_match|em|f1|mcc|maj@.*|pass@.*|pass_at_.*)$') AS is_rate,
       CASE WHEN source = 'published' THEN 1 WHEN is_rate THEN 100 ELSE 1 END AS factor,
       CASE WHEN is_rate THEN 'percent' ELSE 'as measured' END AS unit, own,
       CASE WHEN own THEN 'own' WHEN model IS NOT NULL THEN concat('model ', model)
            ELSE concat('file ', file_sha256) END AS same_model
FROM benchmarks;

CREATE OR REPLACE VIEW score_changes AS
WITH score AS (
    SELECT suite, phase, model, same_model, own, task, metric, value, stderr, n, shots, source,
           setting, factor, unit
    FROM data.scaled_score WHERE phase IS NOT NULL
),
pair AS (
    SELECT suite, same_model, source, task, metric, n, shots, setting,
           lag(phase) OVER (
               PARTITION BY suite, same_model, source, task, metric, n, shots, setting
               ORDER BY phase
           ) AS phase_a,
           phase AS phase_b
    FROM (SELECT DISTINCT suite, same_model, source, task, metric, n, shots, setting, phase
          FROM score)
    QUALIFY phase_a IS NOT NULL
)
SELECT p.suite, p.phase_a, p.phase_b, p.phase_b - p.phase_a AS phases_apart, p.source, p.task,
       p.metric, p.n, p.shots, p.setting, a.model AS model_a, b.model AS model_b,
       a.value * a.factor AS value_a, b.value * b.factor AS value_b,
       b.value * b.factor - a.value * a.factor AS change,
       sqrt((a.stderr * a.factor) ** 2 + (b.stderr * b.factor) ** 2) AS stderr_of_independent,
       a.unit, a.own
FROM pair p
JOIN score a ON a.suite = p.suite AND a.same_model = p.same_model AND a.source = p.source
            AND a.task = p.task AND a.metric = p.metric AND a.phase = p.phase_a
            AND a.n IS NOT DISTINCT FROM p.n AND a.shots IS NOT DISTINCT FROM p.shots
            AND a.setting IS NOT DISTINCT FROM p.setting
JOIN score b ON b.suite = p.suite AND b.same_model = p.same_model AND b.source = p.source
            AND b.task = p.task AND b.metric = p.metric AND b.phase = p.phase_b
            AND b.n IS NOT DISTINCT FROM p.n AND b.shots IS NOT DISTINCT FROM p.shots
            AND b.setting IS NOT DISTINCT FROM p.setting;

CREATE OR REPLACE VIEW published_and_measured AS
WITH listed AS ( -- lm-eval's task -> the name in print, where letters and digits alone do not agree
    FROM (VALUES ('lambadaopenai', 'lambada'), ('lambadastandard', 'lambada'),
                 ('gsm8kcot', 'gsm8k'), ('minervamath500', 'math500'),
                 ('hendrycksmath500', 'math500'), ('cevalvalid', 'ceval'),
                 ('storycloze2016', 'storycloze'), ('storycloze2018', 'storycloze'),
                 ('arcc', 'arcchallenge'), ('arce', 'arceasy'), ('race', 'racehigh'))
        AS t (other, name)
),
score AS (
    SELECT s.*, coalesce(task.name, print.name, l.name, s.plain) AS benchmark
    FROM (SELECT *, regexp_replace(lower(task), '[^a-z0-9]', '', 'g') AS plain
          FROM data.scaled_score WHERE is_rate AND own AND phase IS NOT NULL) s
    LEFT JOIN (SELECT DISTINCT task, name FROM data.benchmark_name) task
           ON task.task = s.task AND s.source <> 'published'
    LEFT JOIN (SELECT DISTINCT plain, name FROM data.benchmark_name) print
           ON print.plain = s.plain AND s.source = 'published'
    LEFT JOIN listed l ON l.other = s.plain
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

COMMENT ON VIEW benchmarks IS 'Benchmark scores. source says measured (our lm-eval runs), imported (results files of lm-eval run elsewhere) or published (the authors'' own harness): compare trends across them, not digits. Which checkpoint was measured (commit_sha, file_hashes), how and when, says runs by run_id. Scores of another model, or of an unknown one, bear the number of the phase with the same step; own tells them apart. A task measured on a part of its documents, or with other shots, is a row of its own.';
COMMENT ON COLUMN benchmarks.suite IS 'Name of the suite.';
COMMENT ON COLUMN benchmarks.phase IS 'Phase measured or published; NULL for another model.';
COMMENT ON COLUMN benchmarks.model IS 'Title of the suite (measured) or name of the model (published, imported): of the suite''s own imported scores its repository; NULL where an imported file names none.';
COMMENT ON COLUMN benchmarks.task IS 'Name of the task.';
COMMENT ON COLUMN benchmarks.metric IS 'Such as acc or pass@1; score where the authors do not say.';
COMMENT ON COLUMN benchmarks.value IS 'Measured and imported: as lm-eval gives it, accuracies from 0 to 1. Published: as printed, percent.';
COMMENT ON COLUMN benchmarks.stderr IS 'Standard error over the documents (sampling error of the task, not the error over seeds); NULL for published scores.';
COMMENT ON COLUMN benchmarks.n IS 'Number of documents; NULL where the file does not say.';
COMMENT ON COLUMN benchmarks.shots IS 'Examples in the prompt.';
COMMENT ON COLUMN benchmarks.source IS 'measured, imported or published.';
COMMENT ON COLUMN benchmarks.higher_is_better IS 'Direction of the metric; NULL where an imported file does not say.';
COMMENT ON COLUMN benchmarks.task_version IS 'Version of the task.';
COMMENT ON COLUMN benchmarks.task_hash IS 'Measured: SHA-256 of the task''s definition and documents. Imported: lm-eval''s own hash of documents, prompts and targets.';
COMMENT ON COLUMN benchmarks.harness_version IS 'Version of lm-eval; NULL where an imported file does not say.';
COMMENT ON COLUMN benchmarks.run_id IS 'The run that measured it, see runs; NULL for published and imported scores.';
COMMENT ON COLUMN benchmarks.setting IS 'Published: the evaluation setting as printed.';
COMMENT ON COLUMN benchmarks.footnote IS 'Published: remark of the authors'' table.';
COMMENT ON COLUMN benchmarks.imported_from IS 'File of `workbench import`; NULL for what was measured here or belongs to the suite.';
COMMENT ON COLUMN benchmarks.parent IS 'Measured: the group of tasks that this one was run within, such as mmlu; else NULL.';
COMMENT ON COLUMN benchmarks.own IS 'Whether the score is of the phase''s own checkpoint: true for measured scores and for published ones of a phase, false for another model, NULL for an imported file that names no model.';
COMMENT ON COLUMN benchmarks.file_sha256 IS 'Imported: SHA-256 of the file''s text; else NULL.';

COMMENT ON VIEW score_changes IS 'Change of benchmark scores from a phase to the next one that has the same source, task, metric, number of documents, shots and setting. Sources are never mixed, nor are models: the suite''s own checkpoints, each other model, and each file that names none are series of their own. The models are named, since a published score may be of a run that the training did not go on with, such as the 4K run of YuLan-Mini''s phase 26.';
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
COMMENT ON COLUMN score_changes.own IS 'Whether both scores are of the suite''s own checkpoints; false for another model, NULL for an unknown one.';

COMMENT ON VIEW published_and_measured IS 'Scores of the same benchmark of the suite''s own checkpoints, published and measured, side by side in percent; a row with one of them alone where the other is missing. Imported scores of another model, or of an unknown one, are in benchmarks alone. Harness, prompts and shots differ: compare trends, not digits.';
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
