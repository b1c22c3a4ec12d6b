-- What people import from elsewhere: logs, scores and mixes, kept apart from what a suite states
-- and from what was measured here.
ALTER TABLE data.training_run ADD COLUMN imported_from VARCHAR;
ALTER TABLE data.training_run ADD COLUMN log_sha256 VARCHAR;
ALTER TABLE data.published_score ADD COLUMN imported_from VARCHAR;
ALTER TABLE data.data_mix ADD COLUMN imported_from VARCHAR;

CREATE TABLE data.imported_score (
    suite VARCHAR NOT NULL, phase INTEGER NOT NULL, model VARCHAR, task VARCHAR NOT NULL,
    metric VARCHAR NOT NULL, value DOUBLE, stderr DOUBLE, n BIGINT, shots INTEGER,
    higher_is_better BOOLEAN, task_version VARCHAR, task_hash VARCHAR, harness_version VARCHAR,
    imported_from VARCHAR NOT NULL, file_sha256 VARCHAR NOT NULL,
    CHECK (value IS NULL OR isfinite(value)), CHECK (stderr IS NULL OR isfinite(stderr))
);
COMMENT ON TABLE data.imported_score IS 'Scores from results files of lm-eval that was run elsewhere; a value that was not finite is NULL.';

CREATE OR REPLACE VIEW benchmarks AS
SELECT r.suite, r.phase, s.title AS model, b.task, b.metric, b.value, b.stderr, b.n, b.shots,
       'measured' AS source, b.higher_is_better, b.task_version, b.task_hash, b.harness_version,
       r.run_id, NULL AS setting, NULL AS footnote, NULL AS imported_from
FROM data.benchmark b
JOIN data.newest_run r USING (run_id)
LEFT JOIN data.suite s ON s.suite = r.suite
WHERE b.value IS NOT NULL
UNION ALL
SELECT suite, phase, model, benchmark,
       coalesce(nullif(regexp_extract(setting, '^(acc_norm|acc|maj@\d+|pass@\d+)'), ''), 'score'),
       score, NULL, NULL, try_cast(regexp_extract(setting, '(\d+)[- ]shot', 1) AS INTEGER),
       'published', true, NULL, NULL, NULL, NULL, setting, footnote, imported_from
FROM data.published_score
WHERE score IS NOT NULL
UNION ALL
SELECT i.suite, i.phase, coalesce(i.model, s.title), i.task, i.metric, i.value, i.stderr, i.n,
       i.shots, 'imported', i.higher_is_better, i.task_version, i.task_hash, i.harness_version,
       NULL, NULL, NULL, i.imported_from
FROM data.imported_score i
LEFT JOIN data.suite s ON s.suite = i.suite
WHERE i.value IS NOT NULL;

CREATE OR REPLACE VIEW data_mix AS
SELECT suite, phase, run, source, source_group, category, bucket, tokens_b, imported_from
FROM data.data_mix;

CREATE OR REPLACE VIEW training_runs AS
SELECT run, recipe, seed, status, suite, started_at, finished_at, parameters, code_version,
       recipe_json, imported_from, log_sha256
FROM data.training_run;

COMMENT ON VIEW benchmarks IS 'Benchmark scores. source says measured (our lm-eval runs), imported (results files of lm-eval run elsewhere) or published (the authors'' own harness): compare trends across them, not digits.';
COMMENT ON VIEW data_mix IS 'Billions of tokens per source and phase; run tells apart the two runs of phase 26.';
COMMENT ON VIEW training_runs IS 'One row per training run.';

COMMENT ON COLUMN benchmarks.suite IS 'Name of the suite.';
COMMENT ON COLUMN benchmarks.phase IS 'Phase measured or published; NULL for another model.';
COMMENT ON COLUMN benchmarks.model IS 'Title of the suite (measured) or name of the model (published; imported where the file has it).';
COMMENT ON COLUMN benchmarks.task IS 'Name of the task.';
COMMENT ON COLUMN benchmarks.metric IS 'Such as acc or pass@1; score where the authors do not say.';
COMMENT ON COLUMN benchmarks.value IS 'Measured and imported: as lm-eval gives it, accuracies from 0 to 1. Published: as printed, percent.';
COMMENT ON COLUMN benchmarks.stderr IS 'Standard error over the documents; NULL for published scores.';
COMMENT ON COLUMN benchmarks.n IS 'Number of documents; NULL where the file does not say.';
COMMENT ON COLUMN benchmarks.shots IS 'Examples in the prompt.';
COMMENT ON COLUMN benchmarks.source IS 'measured, imported or published.';
COMMENT ON COLUMN benchmarks.higher_is_better IS 'Direction of the metric; NULL where an imported file does not say.';
COMMENT ON COLUMN benchmarks.task_version IS 'Version of the task.';
COMMENT ON COLUMN benchmarks.task_hash IS 'Measured: SHA-256 of the task''s definition and documents. Imported: lm-eval''s own hash of documents, prompts and targets.';
COMMENT ON COLUMN benchmarks.harness_version IS 'Version of lm-eval; NULL where an imported file does not say.';
COMMENT ON COLUMN benchmarks.run_id IS 'The run that measured it; NULL for published and imported scores.';
COMMENT ON COLUMN benchmarks.setting IS 'Published: the evaluation setting as printed.';
COMMENT ON COLUMN benchmarks.footnote IS 'Published: remark of the authors'' table.';
COMMENT ON COLUMN benchmarks.imported_from IS 'File of `workbench import`; NULL for what was measured here or belongs to the suite.';

COMMENT ON COLUMN data_mix.suite IS 'Name of the suite.';
COMMENT ON COLUMN data_mix.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN data_mix.run IS 'Run within the phase; a phase may have two.';
COMMENT ON COLUMN data_mix.source IS 'Data set.';
COMMENT ON COLUMN data_mix.source_group IS 'Group of data sets in the paper''s table.';
COMMENT ON COLUMN data_mix.category IS 'english-web, english-general, chinese, code or math.';
COMMENT ON COLUMN data_mix.bucket IS 'Bucket in the paper''s figure.';
COMMENT ON COLUMN data_mix.tokens_b IS 'Billions of tokens.';
COMMENT ON COLUMN data_mix.imported_from IS 'File of `workbench import`; NULL for what belongs to the suite.';

COMMENT ON COLUMN training_runs.run IS 'Name of the run.';
COMMENT ON COLUMN training_runs.recipe IS 'Name of the recipe.';
COMMENT ON COLUMN training_runs.seed IS 'Seed of the run.';
COMMENT ON COLUMN training_runs.status IS 'complete, running or failed; NULL for an imported log.';
COMMENT ON COLUMN training_runs.suite IS 'Suite that the run''s checkpoints form.';
COMMENT ON COLUMN training_runs.started_at IS 'Start, UTC.';
COMMENT ON COLUMN training_runs.finished_at IS 'End, UTC.';
COMMENT ON COLUMN training_runs.parameters IS 'Number of parameters.';
COMMENT ON COLUMN training_runs.code_version IS 'Version of the workbench.';
COMMENT ON COLUMN training_runs.recipe_json IS 'JSON: the whole recipe.';
COMMENT ON COLUMN training_runs.imported_from IS 'Files of `workbench import`, in the order of the log; NULL for a run of our own trainer.';
COMMENT ON COLUMN training_runs.log_sha256 IS 'SHA-256 of the log''s files, one after the other.';
