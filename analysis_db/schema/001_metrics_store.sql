-- Tables live in the schema `data` and are ours to change; the views in `main` are a contract.
-- Measurements carry no key and no index: rows arrive in order of runs and prune well by run.

CREATE TABLE schema_version (number INTEGER NOT NULL, applied TIMESTAMPTZ NOT NULL);

CREATE SCHEMA data;

CREATE TABLE data.suite (
    suite VARCHAR NOT NULL, title VARCHAR, about VARCHAR, licence VARCHAR
);

CREATE TABLE data.phase (
    suite VARCHAR NOT NULL, phase INTEGER NOT NULL, label VARCHAR, stage VARCHAR,
    repo_id VARCHAR, revision VARCHAR, start_step BIGINT, step BIGINT, step_basis VARCHAR,
    phase_tokens_b DOUBLE, tokens_b DOUBLE, context_length INTEGER, rope_theta DOUBLE,
    form VARCHAR, has_optimizer BOOLEAN, on_disk BOOLEAN, evidence VARCHAR, overrides VARCHAR
);

CREATE TABLE data.probe (
    probe VARCHAR NOT NULL, version INTEGER, title VARCHAR, needs VARCHAR
);

CREATE TABLE data.metric (
    metric VARCHAR NOT NULL, probe VARCHAR NOT NULL, version INTEGER, formula VARCHAR,
    unit VARCHAR, source VARCHAR
);

CREATE TABLE data.run (
    run_id VARCHAR NOT NULL, fingerprint VARCHAR NOT NULL, suite VARCHAR NOT NULL,
    phase INTEGER NOT NULL, probe VARCHAR NOT NULL, probe_version INTEGER, settings VARCHAR,
    settings_hash VARCHAR, status VARCHAR NOT NULL, started_at TIMESTAMPTZ NOT NULL,
    seconds DOUBLE, device VARCHAR, dtype VARCHAR, host VARCHAR, repo_id VARCHAR,
    commit_sha VARCHAR, file_hashes VARCHAR, overrides VARCHAR, notes VARCHAR,
    code_version VARCHAR, error VARCHAR
);

CREATE TABLE data.measurement (
    run_id VARCHAR NOT NULL, metric VARCHAR NOT NULL, view VARCHAR, layer SMALLINT,
    module VARCHAR, head SMALLINT, domain VARCHAR, value DOUBLE, reason VARCHAR,
    CHECK (value IS NULL OR isfinite(value)), CHECK (value IS NOT NULL OR reason IS NOT NULL)
);

CREATE TABLE data.histogram (
    run_id VARCHAR NOT NULL, metric VARCHAR NOT NULL, view VARCHAR, layer SMALLINT,
    module VARCHAR, edges DOUBLE[], counts BIGINT[]
);

CREATE TABLE data.benchmark (
    run_id VARCHAR NOT NULL, task VARCHAR NOT NULL, metric VARCHAR NOT NULL, value DOUBLE,
    stderr DOUBLE, n BIGINT, shots INTEGER, higher_is_better BOOLEAN, task_version VARCHAR,
    task_hash VARCHAR, harness_version VARCHAR
);

CREATE TABLE data.pair_measurement (
    run_id VARCHAR NOT NULL, suite VARCHAR NOT NULL, phase_a INTEGER NOT NULL,
    phase_b INTEGER NOT NULL, metric VARCHAR NOT NULL, layer SMALLINT, module VARCHAR,
    value DOUBLE
);

CREATE TABLE data.published_score (
    suite VARCHAR NOT NULL, model VARCHAR NOT NULL, phase INTEGER, benchmark VARCHAR NOT NULL,
    setting VARCHAR, score DOUBLE, footnote VARCHAR, source VARCHAR
);

CREATE TABLE data.data_mix (
    suite VARCHAR NOT NULL, phase INTEGER NOT NULL, run VARCHAR, mix_id VARCHAR, source VARCHAR,
    source_group VARCHAR, category VARCHAR, bucket VARCHAR, tokens_b DOUBLE
);

CREATE TABLE data.training_run (
    run VARCHAR NOT NULL, suite VARCHAR, recipe VARCHAR, recipe_json VARCHAR, seed BIGINT,
    status VARCHAR, started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ, parameters BIGINT,
    code_version VARCHAR
);

CREATE TABLE data.training_step (
    run VARCHAR NOT NULL, step BIGINT NOT NULL, tokens BIGINT, metric VARCHAR NOT NULL,
    layer SMALLINT, module VARCHAR, value DOUBLE
);

CREATE TABLE data.spike (
    series VARCHAR NOT NULL, detector VARCHAR NOT NULL, start_step BIGINT, end_step BIGINT,
    peak_step BIGINT, peak_value DOUBLE, score DOUBLE, recovered_at BIGINT
);

-- The newest complete run of each probe on each phase.
CREATE VIEW data.newest_run AS
SELECT * FROM data.run
WHERE status = 'complete'
QUALIFY row_number() OVER (PARTITION BY suite, phase, probe ORDER BY started_at DESC, run_id) = 1;

CREATE VIEW suites AS SELECT suite, title, about, licence FROM data.suite;

CREATE VIEW phases AS
SELECT suite, phase, label, stage, repo_id, revision, step, tokens_b, context_length, form,
       has_optimizer, on_disk, start_step, step_basis, phase_tokens_b, rope_theta, evidence,
       overrides
FROM data.phase;

CREATE VIEW phase_metrics AS
SELECT r.suite, r.phase, p.label, p.step, p.tokens_b, r.probe, m.metric, m.view, m.layer,
       m.module, m.head, m.domain, m.value, r.run_id
FROM data.measurement m
JOIN data.newest_run r USING (run_id)
LEFT JOIN data.phase p ON p.suite = r.suite AND p.phase = r.phase
WHERE m.value IS NOT NULL;

CREATE VIEW missing_values AS
SELECT r.suite, r.phase, r.probe, m.metric, m.view, m.layer, m.module, m.head, m.domain,
       m.reason, r.run_id
FROM data.measurement m
JOIN data.newest_run r USING (run_id)
WHERE m.value IS NULL;

CREATE VIEW pair_metrics AS
SELECT suite, phase_a, phase_b, metric, layer, module, value, run_id
FROM data.pair_measurement;

CREATE VIEW histograms AS
SELECT r.suite, r.phase, r.probe, h.metric, h.view, h.layer, h.module, h.edges, h.counts,
       r.run_id
FROM data.histogram h
JOIN data.newest_run r USING (run_id);

CREATE VIEW runs AS
SELECT run_id, suite, phase, probe, probe_version, settings, status, started_at, seconds, device,
       dtype, commit_sha, code_version, error, fingerprint, settings_hash, host, repo_id,
       file_hashes, overrides, notes
FROM data.run;

CREATE VIEW coverage AS
WITH newest AS (
    SELECT suite, phase, probe, status FROM data.run
    QUALIFY row_number() OVER (
        PARTITION BY suite, phase, probe ORDER BY status = 'complete' DESC, started_at DESC, run_id
    ) = 1
)
SELECT p.suite, p.phase, b.probe,
       CASE WHEN n.status = 'complete' THEN 'measured'
            WHEN n.status = 'failed' THEN 'failed'
            WHEN p.repo_id IS NULL THEN 'absent'
            ELSE 'missing' END AS status
FROM data.phase p
CROSS JOIN data.probe b
LEFT JOIN newest n ON n.suite = p.suite AND n.phase = p.phase AND n.probe = b.probe;

CREATE VIEW metrics AS
SELECT metric, probe, version, formula, unit, source FROM data.metric;

CREATE VIEW benchmarks AS
SELECT r.suite, r.phase, s.title AS model, b.task, b.metric, b.value, b.stderr, b.n, b.shots,
       'measured' AS source, b.higher_is_better, b.task_version, b.task_hash, b.harness_version,
       r.run_id, NULL AS setting, NULL AS footnote
FROM data.benchmark b
JOIN data.newest_run r USING (run_id)
LEFT JOIN data.suite s ON s.suite = r.suite
WHERE b.value IS NOT NULL
UNION ALL
SELECT suite, phase, model, benchmark,
       coalesce(nullif(regexp_extract(setting, '^(acc_norm|acc|maj@\d+|pass@\d+)'), ''), 'score'),
       score, NULL, NULL, try_cast(regexp_extract(setting, '(\d+)[- ]shot', 1) AS INTEGER),
       'published', true, NULL, NULL, NULL, NULL, setting, footnote
FROM data.published_score
WHERE score IS NOT NULL;

CREATE VIEW data_mix AS
SELECT suite, phase, run, source, source_group, category, bucket, tokens_b FROM data.data_mix;

CREATE VIEW data_mix_share AS
SELECT suite, phase, run, source_group, category, bucket, sum(tokens_b) AS tokens_b,
       sum(tokens_b) / nullif(sum(sum(tokens_b)) OVER (PARTITION BY suite, phase, run), 0) AS share
FROM data.data_mix
GROUP BY suite, phase, run, source_group, category, bucket;

CREATE VIEW training_runs AS
SELECT run, recipe, seed, status, suite, started_at, finished_at, parameters, code_version,
       recipe_json
FROM data.training_run;

CREATE VIEW training_steps AS
SELECT run, step, tokens, metric, layer, module, value FROM data.training_step;

CREATE VIEW spikes AS
SELECT series, detector, start_step, end_step, peak_step, peak_value, score, recovered_at
FROM data.spike;

COMMENT ON VIEW suites IS 'One row per suite that the store knows.';
COMMENT ON VIEW phases IS 'One row per phase of a suite, in order; what is unknown is NULL. step is the optimizer step at which the checkpoint was saved, tokens_b the billions of tokens seen by then, phase_tokens_b those of the phase alone. form is reparameterised, merged or plain. repo_id is NULL when no checkpoint was published.';
COMMENT ON VIEW phase_metrics IS 'Every measured value of the newest complete run per checkpoint and probe. layer and head are NULL where they do not apply, view is stored or effective for weights.';
COMMENT ON VIEW missing_values IS 'Values that do not exist (such as the kurtosis of a constant), with the reason.';
COMMENT ON VIEW pair_metrics IS 'Metrics between the checkpoints of two phases.';
COMMENT ON VIEW histograms IS 'Histograms of the newest complete runs; edges has one entry more than counts.';
COMMENT ON VIEW runs IS 'Every run with its provenance, failed ones with their traceback. settings, file_hashes, overrides and notes are JSON; times are UTC.';
COMMENT ON VIEW coverage IS 'One row for every phase and probe: measured, failed, missing (not yet run) or absent (no checkpoint was published).';
COMMENT ON VIEW metrics IS 'The definition of every metric, as registered by the probe that measures it.';
COMMENT ON VIEW benchmarks IS 'Benchmark scores. source says measured (our lm-eval runs) or published (the authors'' own harness): compare trends across the two, not digits.';
COMMENT ON VIEW data_mix IS 'Billions of tokens per source and phase; run tells apart the two runs of phase 26.';
COMMENT ON VIEW data_mix_share IS 'Tokens per group, category and bucket, and their share of the phase''s run.';
COMMENT ON VIEW training_runs IS 'One row per training run.';
COMMENT ON VIEW training_steps IS 'Every logged value of every optimizer step; tokens counts all tokens seen so far.';
COMMENT ON VIEW spikes IS 'Loss-spike events found in a series.';

COMMENT ON TABLE data.suite IS 'Suites.';
COMMENT ON TABLE data.phase IS 'Phases of suites.';
COMMENT ON TABLE data.probe IS 'Probes that have been registered.';
COMMENT ON TABLE data.metric IS 'Definitions of metrics, as registered by their probes.';
COMMENT ON TABLE data.run IS 'Runs of probes, complete and failed.';
COMMENT ON TABLE data.measurement IS 'Values of runs; a value that does not exist is NULL with a reason.';
COMMENT ON TABLE data.histogram IS 'Histograms of runs.';
COMMENT ON TABLE data.benchmark IS 'Benchmark scores of runs.';
COMMENT ON TABLE data.pair_measurement IS 'Values of runs that compare two phases.';
COMMENT ON TABLE data.published_score IS 'Scores as printed by a suite''s authors.';
COMMENT ON TABLE data.data_mix IS 'Tokens per source and phase, as published.';
COMMENT ON TABLE data.training_run IS 'Training runs.';
COMMENT ON TABLE data.training_step IS 'Logged values of training runs.';
COMMENT ON TABLE data.spike IS 'Events found in series.';

COMMENT ON COLUMN suites.suite IS 'Name of the suite.';
COMMENT ON COLUMN suites.title IS 'One line.';
COMMENT ON COLUMN suites.about IS 'What is studied.';
COMMENT ON COLUMN suites.licence IS 'Licence of the checkpoints.';

COMMENT ON COLUMN phases.suite IS 'Name of the suite.';
COMMENT ON COLUMN phases.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN phases.label IS 'Short name for charts.';
COMMENT ON COLUMN phases.stage IS 'Part of the schedule, such as warmup, stable or annealing.';
COMMENT ON COLUMN phases.repo_id IS 'Repository of the checkpoint; NULL when none was published.';
COMMENT ON COLUMN phases.revision IS 'Branch, tag or commit in the repository.';
COMMENT ON COLUMN phases.step IS 'Optimizer step at which the checkpoint was saved.';
COMMENT ON COLUMN phases.tokens_b IS 'Billions of tokens seen by the checkpoint, all phases so far.';
COMMENT ON COLUMN phases.context_length IS 'Tokens of context in training.';
COMMENT ON COLUMN phases.form IS 'reparameterised, merged or plain.';
COMMENT ON COLUMN phases.has_optimizer IS 'Whether the optimizer''s state was published.';
COMMENT ON COLUMN phases.on_disk IS 'Whether the weights were in the cache when last looked.';
COMMENT ON COLUMN phases.start_step IS 'Step at which the phase began.';
COMMENT ON COLUMN phases.step_basis IS 'Where the step comes from.';
COMMENT ON COLUMN phases.phase_tokens_b IS 'Billions of tokens of the phase alone.';
COMMENT ON COLUMN phases.rope_theta IS 'RoPE base in training.';
COMMENT ON COLUMN phases.evidence IS 'What is known of the repository, and from where.';
COMMENT ON COLUMN phases.overrides IS 'JSON: fields of the config that are corrected when it is loaded.';

COMMENT ON COLUMN phase_metrics.suite IS 'Name of the suite.';
COMMENT ON COLUMN phase_metrics.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN phase_metrics.label IS 'Short name of the phase.';
COMMENT ON COLUMN phase_metrics.step IS 'Optimizer step of the checkpoint.';
COMMENT ON COLUMN phase_metrics.tokens_b IS 'Billions of tokens seen by the checkpoint.';
COMMENT ON COLUMN phase_metrics.probe IS 'Id of the probe.';
COMMENT ON COLUMN phase_metrics.metric IS 'Id of the metric.';
COMMENT ON COLUMN phase_metrics.view IS 'stored (as in the file) or effective (after the fold into Llama) for weights, else NULL.';
COMMENT ON COLUMN phase_metrics.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN phase_metrics.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN phase_metrics.head IS 'Attention head, from 0; NULL where it does not apply.';
COMMENT ON COLUMN phase_metrics.domain IS 'Domain of the text, such as web or code; NULL where it does not apply.';
COMMENT ON COLUMN phase_metrics.value IS 'The value, in the unit that metrics gives.';
COMMENT ON COLUMN phase_metrics.run_id IS 'The run that measured it.';

COMMENT ON COLUMN missing_values.suite IS 'Name of the suite.';
COMMENT ON COLUMN missing_values.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN missing_values.probe IS 'Id of the probe.';
COMMENT ON COLUMN missing_values.metric IS 'Id of the metric.';
COMMENT ON COLUMN missing_values.view IS 'stored (as in the file) or effective (after the fold into Llama) for weights, else NULL.';
COMMENT ON COLUMN missing_values.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN missing_values.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN missing_values.head IS 'Attention head, from 0; NULL where it does not apply.';
COMMENT ON COLUMN missing_values.domain IS 'Domain of the text, such as web or code; NULL where it does not apply.';
COMMENT ON COLUMN missing_values.reason IS 'Why there is no value.';
COMMENT ON COLUMN missing_values.run_id IS 'The run that measured it.';

COMMENT ON COLUMN pair_metrics.suite IS 'Name of the suite.';
COMMENT ON COLUMN pair_metrics.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN pair_metrics.phase_b IS 'The later phase.';
COMMENT ON COLUMN pair_metrics.metric IS 'Id of the metric.';
COMMENT ON COLUMN pair_metrics.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN pair_metrics.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN pair_metrics.value IS 'The value, in the unit that metrics gives.';
COMMENT ON COLUMN pair_metrics.run_id IS 'The run that measured it.';

COMMENT ON COLUMN histograms.suite IS 'Name of the suite.';
COMMENT ON COLUMN histograms.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN histograms.probe IS 'Id of the probe.';
COMMENT ON COLUMN histograms.metric IS 'Id of the metric.';
COMMENT ON COLUMN histograms.view IS 'stored (as in the file) or effective (after the fold into Llama) for weights, else NULL.';
COMMENT ON COLUMN histograms.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN histograms.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN histograms.edges IS 'Edges of the bins, ascending, one more than counts.';
COMMENT ON COLUMN histograms.counts IS 'Number of elements in each bin.';
COMMENT ON COLUMN histograms.run_id IS 'The run that measured it.';

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

COMMENT ON COLUMN coverage.suite IS 'Name of the suite.';
COMMENT ON COLUMN coverage.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN coverage.probe IS 'Id of the probe.';
COMMENT ON COLUMN coverage.status IS 'measured, failed, missing or absent.';

COMMENT ON COLUMN metrics.metric IS 'Id of the metric.';
COMMENT ON COLUMN metrics.probe IS 'Probe that measures it.';
COMMENT ON COLUMN metrics.version IS 'Version of the definition.';
COMMENT ON COLUMN metrics.formula IS 'Formula, one line.';
COMMENT ON COLUMN metrics.unit IS 'Unit; empty for a pure number.';
COMMENT ON COLUMN metrics.source IS 'Paper, report or code that defines it.';

COMMENT ON COLUMN benchmarks.suite IS 'Name of the suite.';
COMMENT ON COLUMN benchmarks.phase IS 'Phase measured or published; NULL for another model.';
COMMENT ON COLUMN benchmarks.model IS 'Title of the suite (measured) or name of the model (published).';
COMMENT ON COLUMN benchmarks.task IS 'Name of the task.';
COMMENT ON COLUMN benchmarks.metric IS 'Such as acc or pass@1; score where the authors do not say.';
COMMENT ON COLUMN benchmarks.value IS 'Measured: as lm-eval gives it, accuracies from 0 to 1. Published: as printed, percent.';
COMMENT ON COLUMN benchmarks.stderr IS 'Standard error over the documents; NULL for published scores.';
COMMENT ON COLUMN benchmarks.n IS 'Number of documents.';
COMMENT ON COLUMN benchmarks.shots IS 'Examples in the prompt.';
COMMENT ON COLUMN benchmarks.source IS 'measured or published.';
COMMENT ON COLUMN benchmarks.higher_is_better IS 'Direction of the metric.';
COMMENT ON COLUMN benchmarks.task_version IS 'Version of the task.';
COMMENT ON COLUMN benchmarks.task_hash IS 'SHA-256 of the task''s definition and documents.';
COMMENT ON COLUMN benchmarks.harness_version IS 'Version of lm-eval.';
COMMENT ON COLUMN benchmarks.run_id IS 'The run that measured it; NULL for published scores.';
COMMENT ON COLUMN benchmarks.setting IS 'Published: the evaluation setting as printed.';
COMMENT ON COLUMN benchmarks.footnote IS 'Published: remark of the authors'' table.';

COMMENT ON COLUMN data_mix.suite IS 'Name of the suite.';
COMMENT ON COLUMN data_mix.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN data_mix.run IS 'Run within the phase; a phase may have two.';
COMMENT ON COLUMN data_mix.source IS 'Data set.';
COMMENT ON COLUMN data_mix.source_group IS 'Group of data sets in the paper''s table.';
COMMENT ON COLUMN data_mix.category IS 'english-web, english-general, chinese, code or math.';
COMMENT ON COLUMN data_mix.bucket IS 'Bucket in the paper''s figure.';
COMMENT ON COLUMN data_mix.tokens_b IS 'Billions of tokens.';

COMMENT ON COLUMN data_mix_share.suite IS 'Name of the suite.';
COMMENT ON COLUMN data_mix_share.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN data_mix_share.run IS 'Run within the phase; shares of one run sum to 1.';
COMMENT ON COLUMN data_mix_share.source_group IS 'Group of data sets in the paper''s table.';
COMMENT ON COLUMN data_mix_share.category IS 'english-web, english-general, chinese, code or math.';
COMMENT ON COLUMN data_mix_share.bucket IS 'Bucket in the paper''s figure.';
COMMENT ON COLUMN data_mix_share.tokens_b IS 'Billions of tokens.';
COMMENT ON COLUMN data_mix_share.share IS 'Part of the run''s tokens, 0 to 1.';

COMMENT ON COLUMN training_runs.run IS 'Name of the run.';
COMMENT ON COLUMN training_runs.recipe IS 'Name of the recipe.';
COMMENT ON COLUMN training_runs.seed IS 'Seed of the run.';
COMMENT ON COLUMN training_runs.status IS 'complete, running or failed.';
COMMENT ON COLUMN training_runs.suite IS 'Suite that the run''s checkpoints form.';
COMMENT ON COLUMN training_runs.started_at IS 'Start, UTC.';
COMMENT ON COLUMN training_runs.finished_at IS 'End, UTC.';
COMMENT ON COLUMN training_runs.parameters IS 'Number of parameters.';
COMMENT ON COLUMN training_runs.code_version IS 'Version of the workbench.';
COMMENT ON COLUMN training_runs.recipe_json IS 'JSON: the whole recipe.';

COMMENT ON COLUMN training_steps.run IS 'Name of the run.';
COMMENT ON COLUMN training_steps.step IS 'Optimizer step, from 1.';
COMMENT ON COLUMN training_steps.tokens IS 'Tokens seen up to and with this step.';
COMMENT ON COLUMN training_steps.metric IS 'Name of the logged quantity.';
COMMENT ON COLUMN training_steps.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN training_steps.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN training_steps.value IS 'The value; NULL when it was not finite.';

COMMENT ON COLUMN spikes.series IS 'Series that was searched.';
COMMENT ON COLUMN spikes.detector IS 'Detector that found it.';
COMMENT ON COLUMN spikes.start_step IS 'First flagged step.';
COMMENT ON COLUMN spikes.end_step IS 'Last flagged step.';
COMMENT ON COLUMN spikes.peak_step IS 'Step of the peak.';
COMMENT ON COLUMN spikes.peak_value IS 'Value at the peak.';
COMMENT ON COLUMN spikes.score IS 'Height of the peak in the detector''s unit.';
COMMENT ON COLUMN spikes.recovered_at IS 'First step back in the band; NULL if never.';
