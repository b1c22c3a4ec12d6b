-- Tables live in the schema `data` and are ours to change; the views in `main` are a contract.
-- Measurements carry no key and no index: rows arrive in order of runs and prune well by run.

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
    module VARCHAR, head SMALLINT, domain VARCHAR, value DOUBLE, reason VARCHAR
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
        PARTITION BY suite, phase, probe ORDER BY status = 'complete' DESC, started_at DESC
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
       r.run_id
FROM data.benchmark b
JOIN data.newest_run r USING (run_id)
LEFT JOIN data.suite s ON s.suite = r.suite
UNION ALL
SELECT suite, phase, model, benchmark, 'score', score, NULL, NULL,
       try_cast(regexp_extract(setting, '(\d+)[- ]shot', 1) AS INTEGER), 'published',
       true, NULL, NULL, NULL, NULL
FROM data.published_score
WHERE score IS NOT NULL;

CREATE VIEW data_mix AS
SELECT suite, phase, run, source, source_group, category, bucket, tokens_b FROM data.data_mix;

CREATE VIEW data_mix_share AS
SELECT suite, phase, run, source_group, category, bucket, sum(tokens_b) AS tokens_b,
       sum(tokens_b) / sum(sum(tokens_b)) OVER (PARTITION BY suite, phase, run) AS share
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
