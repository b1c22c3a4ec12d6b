-- A probe's work may come in parts, such as one benchmark task each, that fail and succeed on their
-- own: what is newest is decided by part. And: which task stands for which published benchmark.
ALTER TABLE data.run ADD COLUMN part VARCHAR DEFAULT '';
ALTER TABLE data.benchmark ADD COLUMN parent VARCHAR;

CREATE TABLE data.benchmark_task (
    benchmark VARCHAR, task_group VARCHAR NOT NULL, task VARCHAR, shots INTEGER, metric VARCHAR,
    reason VARCHAR
);
COMMENT ON TABLE data.benchmark_task IS 'The tasks of the benchmark groups, and the published benchmarks that they stand for.';

CREATE OR REPLACE VIEW data.newest_run AS
SELECT * FROM data.run
WHERE status = 'complete'
QUALIFY row_number() OVER (
    PARTITION BY suite, phase, probe, part ORDER BY started_at DESC, run_id
) = 1;

CREATE OR REPLACE VIEW runs AS
SELECT run_id, suite, phase, probe, probe_version, settings, status, started_at, seconds, device,
       dtype, commit_sha, code_version, error, fingerprint, settings_hash, host, repo_id,
       file_hashes, overrides, notes, part
FROM data.run;

-- A task may come in two runs: by itself and within its group, or of an older version of the probe.
CREATE OR REPLACE VIEW benchmarks AS
SELECT * EXCLUDE (started_at) FROM (
    SELECT r.suite, r.phase, s.title AS model, b.task, b.metric, b.value, b.stderr, b.n, b.shots,
           'measured' AS source, b.higher_is_better, b.task_version, b.task_hash,
           b.harness_version, r.run_id, NULL AS setting, NULL AS footnote, NULL AS imported_from,
           b.parent, r.started_at
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
       'published', true, NULL, NULL, NULL, NULL, setting, footnote, imported_from, NULL
FROM data.published_score
WHERE score IS NOT NULL
UNION ALL
SELECT i.suite, i.phase, coalesce(i.model, s.title), i.task, i.metric, i.value, i.stderr, i.n,
       i.shots, 'imported', i.higher_is_better, i.task_version, i.task_hash, i.harness_version,
       NULL, NULL, NULL, i.imported_from, NULL
FROM data.imported_score i
LEFT JOIN data.suite s ON s.suite = i.suite
WHERE i.value IS NOT NULL;

CREATE VIEW benchmark_tasks AS
SELECT benchmark, task_group, task, shots, metric, reason FROM data.benchmark_task;

COMMENT ON VIEW runs IS 'Every run with its provenance, failed ones with their traceback. settings, file_hashes, overrides and notes are JSON; times are UTC.';
COMMENT ON COLUMN runs.run_id IS 'Id of the run.';
COMMENT ON COLUMN runs.suite IS 'Name of the suite.';
COMMENT ON COLUMN runs.phase IS 'Phase whose checkpoint was measured.';
COMMENT ON COLUMN runs.probe IS 'Id of the probe.';
COMMENT ON COLUMN runs.probe_version IS 'Version of the probe.';
COMMENT ON COLUMN runs.settings IS 'JSON: settings of the probe.';
COMMENT ON COLUMN runs.status IS 'complete or failed.';
COMMENT ON COLUMN runs.started_at IS 'Start of the run, UTC.';
COMMENT ON COLUMN runs.seconds IS 'Duration.';
COMMENT ON COLUMN runs.device IS 'Device of the computation.';
COMMENT ON COLUMN runs.dtype IS 'Type the model computed in.';
COMMENT ON COLUMN runs.commit_sha IS 'Commit of the repository.';
COMMENT ON COLUMN runs.code_version IS 'Version of the workbench.';
COMMENT ON COLUMN runs.error IS 'Traceback of a failed run.';
COMMENT ON COLUMN runs.fingerprint IS 'Hash of everything the numbers depend on.';
COMMENT ON COLUMN runs.settings_hash IS 'SHA-256 of settings.';
COMMENT ON COLUMN runs.host IS 'Name of the machine.';
COMMENT ON COLUMN runs.repo_id IS 'Repository of the checkpoint.';
COMMENT ON COLUMN runs.file_hashes IS 'JSON: SHA-256 of each file of the checkpoint.';
COMMENT ON COLUMN runs.overrides IS 'JSON: fields of the config that were corrected.';
COMMENT ON COLUMN runs.notes IS 'JSON: facts about the run that are no numbers, such as the hash of the token set.';
COMMENT ON COLUMN runs.part IS 'Piece of the probe''s work, such as one benchmark task; empty for a probe that works in one piece.';

COMMENT ON VIEW benchmarks IS 'Benchmark scores. source says measured (our lm-eval runs), imported (results files of lm-eval run elsewhere) or published (the authors'' own harness): compare trends across them, not digits. Which checkpoint was measured (commit_sha, file_hashes), how and when, says runs by run_id. A task measured on a part of its documents, or with other shots, is a row of its own.';
COMMENT ON COLUMN benchmarks.suite IS 'Name of the suite.';
COMMENT ON COLUMN benchmarks.phase IS 'Phase measured or published; NULL for another model.';
COMMENT ON COLUMN benchmarks.model IS 'Title of the suite (measured) or name of the model (published; imported where the file has it).';
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

COMMENT ON VIEW coverage IS 'One row for every phase and probe: measured, failed, missing (not yet run) or absent (no checkpoint was published). Measured means that there are values; `workbench failures` lists the parts that failed.';
COMMENT ON COLUMN coverage.suite IS 'Name of the suite.';
COMMENT ON COLUMN coverage.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN coverage.probe IS 'Id of the probe.';
COMMENT ON COLUMN coverage.status IS 'measured, failed, missing or absent.';

COMMENT ON VIEW benchmark_tasks IS 'The tasks of the benchmark groups, and which of them stands for which published benchmark; a benchmark that none stands for has a reason.';
COMMENT ON COLUMN benchmark_tasks.benchmark IS 'Name under which authors print it; NULL for a task that stands for none.';
COMMENT ON COLUMN benchmark_tasks.task_group IS 'Group of tasks, as the setting tasks names it.';
COMMENT ON COLUMN benchmark_tasks.task IS 'Task in benchmarks; NULL where there is none.';
COMMENT ON COLUMN benchmark_tasks.shots IS 'Examples in the prompt.';
COMMENT ON COLUMN benchmark_tasks.metric IS 'Metric of the task that the published score is to be set beside.';
COMMENT ON COLUMN benchmark_tasks.reason IS 'Why there is no task, or why it is not run unless it is allowed to.';
