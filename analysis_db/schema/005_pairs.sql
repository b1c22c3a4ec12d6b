-- Sketches: small stand-ins for a tensor or a set of activations, measured once per checkpoint, from
-- which any two checkpoints are compared. What comes of the comparison is a pair run.

CREATE TABLE data.sketch (
    run_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, view VARCHAR, layer SMALLINT, module VARCHAR,
    "values" FLOAT[] NOT NULL, n BIGINT NOT NULL, norm DOUBLE NOT NULL, digest VARCHAR,
    CHECK (isfinite(norm))
);

-- Found by the fingerprints of the two runs, so that a pair whose checkpoint is measured anew in
-- another way stops being shown, and one that is measured again in the same way does not.
CREATE TABLE data.pair_run (
    run_id VARCHAR NOT NULL, suite VARCHAR NOT NULL, phase_a INTEGER NOT NULL,
    phase_b INTEGER NOT NULL, kind VARCHAR NOT NULL, probe VARCHAR NOT NULL,
    fingerprint_a VARCHAR NOT NULL, fingerprint_b VARCHAR NOT NULL, exact BOOLEAN NOT NULL,
    identical BOOLEAN NOT NULL, reason VARCHAR, method_version INTEGER NOT NULL,
    computed_at TIMESTAMPTZ NOT NULL, code_version VARCHAR, CHECK (phase_a < phase_b)
);

ALTER TABLE data.pair_measurement ADD COLUMN view VARCHAR;
ALTER TABLE data.pair_measurement ADD COLUMN exact BOOLEAN;
ALTER TABLE data.pair_measurement ADD COLUMN error_bound DOUBLE;

-- One per pair and kind: the exact one if there is one, else the newest.
CREATE VIEW data.newest_pair_run AS
SELECT p.*
FROM data.pair_run p
JOIN data.newest_run a
  ON a.suite = p.suite AND a.phase = p.phase_a AND a.probe = p.probe
 AND a.fingerprint = p.fingerprint_a
JOIN data.newest_run b
  ON b.suite = p.suite AND b.phase = p.phase_b AND b.probe = p.probe
 AND b.fingerprint = p.fingerprint_b
QUALIFY row_number() OVER (
    PARTITION BY p.suite, p.phase_a, p.phase_b, p.kind
    ORDER BY p.exact DESC, p.computed_at DESC, p.run_id
) = 1;

CREATE VIEW sketches AS
SELECT r.suite, r.phase, r.probe, s.kind, s.view, s.layer, s.module, s."values", s.n, s.norm,
       s.digest, r.run_id
FROM data.sketch s
JOIN data.newest_run r USING (run_id);

CREATE VIEW pair_runs AS
SELECT run_id, suite, phase_a, phase_b, kind, exact, identical, reason, computed_at, probe,
       method_version, code_version
FROM data.newest_pair_run;

CREATE OR REPLACE VIEW pair_metrics AS
WITH measured AS (
    SELECT m.* FROM data.pair_measurement m SEMI JOIN data.newest_pair_run USING (run_id)
)
SELECT suite, phase_a, phase_b, metric, layer, module, value, run_id, view, exact, error_bound
FROM measured
WHERE value IS NOT NULL
UNION ALL
SELECT m.suite, m.phase_a, m.phase_b, 'change_per_btoken', m.layer, m.module,
       m.value / (b.tokens_b - a.tokens_b), m.run_id, m.view, m.exact,
       m.error_bound / (b.tokens_b - a.tokens_b)
FROM measured m
JOIN data.phase a ON a.suite = m.suite AND a.phase = m.phase_a
JOIN data.phase b ON b.suite = m.suite AND b.phase = m.phase_b
WHERE m.metric = 'relative_change' AND m.value IS NOT NULL AND b.tokens_b > a.tokens_b;

CREATE VIEW identity_alarms AS
SELECT p.suite, p.phase_a, p.phase_b, a.label AS label_a, b.label AS label_b, p.run_id
FROM data.newest_pair_run p
LEFT JOIN data.phase a ON a.suite = p.suite AND a.phase = p.phase_a
LEFT JOIN data.phase b ON b.suite = p.suite AND b.phase = p.phase_b
WHERE p.identical;

COMMENT ON TABLE data.sketch IS 'Sketches of runs: small stand-ins from which two checkpoints are compared.';
COMMENT ON COLUMN data.sketch.run_id IS 'The run that measured it.';
COMMENT ON COLUMN data.sketch.kind IS 'weight or activation_gram.';
COMMENT ON COLUMN data.sketch.view IS 'stored or effective for weights, else NULL.';
COMMENT ON COLUMN data.sketch.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN data.sketch.module IS 'Kind of module, such as q_proj or residual.';
COMMENT ON COLUMN data.sketch."values" IS 'The sketch.';
COMMENT ON COLUMN data.sketch.n IS 'Elements (weight) or tokens (activation_gram) that it stands for.';
COMMENT ON COLUMN data.sketch.norm IS 'Norm of what it stands for, exact.';
COMMENT ON COLUMN data.sketch.digest IS 'Hash of what it stands for; equal hashes mean equal content.';
COMMENT ON TABLE data.pair_run IS 'Comparisons of two phases.';
COMMENT ON COLUMN data.pair_run.run_id IS 'Id of the comparison.';
COMMENT ON COLUMN data.pair_run.suite IS 'Name of the suite.';
COMMENT ON COLUMN data.pair_run.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN data.pair_run.phase_b IS 'The later phase.';
COMMENT ON COLUMN data.pair_run.kind IS 'Kind of sketch that is compared.';
COMMENT ON COLUMN data.pair_run.probe IS 'The probe whose runs are compared.';
COMMENT ON COLUMN data.pair_run.fingerprint_a IS 'Fingerprint of the run of phase_a.';
COMMENT ON COLUMN data.pair_run.fingerprint_b IS 'Fingerprint of the run of phase_b.';
COMMENT ON COLUMN data.pair_run.exact IS 'Computed from the two checkpoints themselves.';
COMMENT ON COLUMN data.pair_run.identical IS 'All that was compared is equal in both.';
COMMENT ON COLUMN data.pair_run.reason IS 'Why the two cannot be compared, or not in full.';
COMMENT ON COLUMN data.pair_run.method_version IS 'Version of the estimators.';
COMMENT ON COLUMN data.pair_run.computed_at IS 'When, UTC.';
COMMENT ON COLUMN data.pair_run.code_version IS 'Version of the workbench.';
COMMENT ON COLUMN data.pair_measurement.view IS 'stored or effective for weights, else NULL.';
COMMENT ON COLUMN data.pair_measurement.exact IS 'Not estimated.';
COMMENT ON COLUMN data.pair_measurement.error_bound IS 'Two standard deviations of the estimator; 0 where exact.';

COMMENT ON VIEW sketches IS 'Sketches of the newest complete runs: small stand-ins from which two checkpoints are compared.';
COMMENT ON VIEW pair_runs IS 'One row per two phases and kind of sketch that were compared: how, and why not where they could not be.';
COMMENT ON VIEW pair_metrics IS 'Metrics between the checkpoints of two phases, of the newest complete runs. Where both checkpoints were on disk together the values are exact; else they are estimated from sketches, and error_bound says how well.';
COMMENT ON VIEW identity_alarms IS 'Two phases of which every weight is equal: one of them is probably not what it says it is.';

COMMENT ON COLUMN sketches.suite IS 'Name of the suite.';
COMMENT ON COLUMN sketches.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN sketches.probe IS 'Id of the probe.';
COMMENT ON COLUMN sketches.kind IS 'weight (a random projection of a tensor) or activation_gram (upper triangle, row by row, of the Gram matrix of the activations of n tokens).';
COMMENT ON COLUMN sketches.view IS 'effective for weights, else NULL.';
COMMENT ON COLUMN sketches.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN sketches.module IS 'Kind of module, such as q_proj or residual.';
COMMENT ON COLUMN sketches."values" IS 'The sketch.';
COMMENT ON COLUMN sketches.n IS 'Elements of the tensor, or tokens.';
COMMENT ON COLUMN sketches.norm IS 'Frobenius norm of what the sketch stands for, exact.';
COMMENT ON COLUMN sketches.digest IS 'Hash of what the sketch stands for; equal hashes mean equal content.';
COMMENT ON COLUMN sketches.run_id IS 'The run that measured it.';

COMMENT ON COLUMN pair_runs.run_id IS 'Id of the comparison.';
COMMENT ON COLUMN pair_runs.suite IS 'Name of the suite.';
COMMENT ON COLUMN pair_runs.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN pair_runs.phase_b IS 'The later phase.';
COMMENT ON COLUMN pair_runs.kind IS 'Kind of sketch that was compared: weight or activation_gram.';
COMMENT ON COLUMN pair_runs.exact IS 'Computed from the two checkpoints themselves.';
COMMENT ON COLUMN pair_runs.identical IS 'All that was compared is equal in both.';
COMMENT ON COLUMN pair_runs.reason IS 'Why the two cannot be compared, or not in full; else NULL.';
COMMENT ON COLUMN pair_runs.computed_at IS 'When, UTC.';
COMMENT ON COLUMN pair_runs.probe IS 'The probe whose runs are compared.';
COMMENT ON COLUMN pair_runs.method_version IS 'Version of the estimators.';
COMMENT ON COLUMN pair_runs.code_version IS 'Version of the workbench.';

COMMENT ON COLUMN pair_metrics.suite IS 'Name of the suite.';
COMMENT ON COLUMN pair_metrics.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN pair_metrics.phase_b IS 'The later phase.';
COMMENT ON COLUMN pair_metrics.metric IS 'Id of the metric.';
COMMENT ON COLUMN pair_metrics.layer IS 'Layer, from 0; NULL where it does not apply, and for all layers of a module together.';
COMMENT ON COLUMN pair_metrics.module IS 'Kind of module, such as q_proj or residual; total over all weights (of the layer, where there is one).';
COMMENT ON COLUMN pair_metrics.value IS 'The value, in the unit that metrics gives.';
COMMENT ON COLUMN pair_metrics.run_id IS 'The comparison that it belongs to, in pair_runs.';
COMMENT ON COLUMN pair_metrics.view IS 'effective for weights, else NULL.';
COMMENT ON COLUMN pair_metrics.exact IS 'Not estimated.';
COMMENT ON COLUMN pair_metrics.error_bound IS 'Two standard deviations of the estimator (about 95 %), in the unit of the value; 0 where exact.';

COMMENT ON COLUMN identity_alarms.suite IS 'Name of the suite.';
COMMENT ON COLUMN identity_alarms.phase_a IS 'The earlier phase.';
COMMENT ON COLUMN identity_alarms.phase_b IS 'The later phase.';
COMMENT ON COLUMN identity_alarms.label_a IS 'Its short name.';
COMMENT ON COLUMN identity_alarms.label_b IS 'Short name of the later one.';
COMMENT ON COLUMN identity_alarms.run_id IS 'The comparison, in pair_runs.';
