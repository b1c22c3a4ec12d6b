-- The tokens that a statistic is over. The start token can make up nearly all of a mean over tokens,
-- so the probe stores some statistics over several scopes. What asked for one row per metric and
-- place still gets one: the scope all. The views `scoped_*` have all scopes.
ALTER TABLE data.measurement ADD COLUMN scope VARCHAR DEFAULT 'all';

-- A table without the column, of another package's probe, has the scope all.
CREATE VIEW scoped_metrics AS
SELECT r.suite, r.phase, p.label, p.step, p.tokens_b, r.probe, m.metric, m.view, m.layer,
       m.module, m.head, m.domain, m.value, r.run_id, coalesce(m.scope, 'all') AS scope
FROM data.measurement m
JOIN data.newest_run r USING (run_id)
LEFT JOIN data.phase p ON p.suite = r.suite AND p.phase = r.phase
WHERE m.value IS NOT NULL;

CREATE OR REPLACE VIEW phase_metrics AS
SELECT suite, phase, label, step, tokens_b, probe, metric, view, layer, module, head, domain, value,
       run_id
FROM scoped_metrics
WHERE scope = 'all';

CREATE VIEW scoped_missing_values AS
SELECT r.suite, r.phase, r.probe, m.metric, m.view, m.layer, m.module, m.head, m.domain,
       m.reason, r.run_id, coalesce(m.scope, 'all') AS scope
FROM data.measurement m
JOIN data.newest_run r USING (run_id)
WHERE m.value IS NULL;

CREATE OR REPLACE VIEW missing_values AS
SELECT suite, phase, probe, metric, view, layer, module, head, domain, reason, run_id
FROM scoped_missing_values
WHERE scope = 'all';

CREATE VIEW data.scoped_changes AS
WITH measured AS (
    SELECT r.suite, r.phase, r.probe, m.metric, m.view, m.layer, m.module, m.head, m.domain,
           coalesce(m.scope, 'all') AS scope, m.value, r.run_id, p.tokens_b,
           (r.probe_version, r.settings_hash, r.dtype) AS way
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
       lag(run_id) OVER series AS run_id_a, run_id AS run_id_b, scope
FROM measured
WINDOW series AS (
    PARTITION BY suite, probe, metric, view, layer, module, head, domain, scope ORDER BY phase
)
QUALIFY lag(phase) OVER series IS NOT NULL;

CREATE OR REPLACE VIEW metric_changes AS
SELECT * EXCLUDE (scope) FROM data.scoped_changes WHERE scope = 'all';

CREATE OR REPLACE VIEW data.measured_of_values AS
SELECT run_id, metric, view, module, bool_or(layer IS NOT NULL) AS by_layer,
       bool_or(head IS NOT NULL) AS by_head, bool_or(domain IS NOT NULL) AS by_domain,
       count(*) AS n
FROM data.measurement
WHERE value IS NOT NULL AND coalesce(scope, 'all') = 'all'
GROUP BY run_id, metric, view, module;

COMMENT ON VIEW scoped_metrics IS 'As phase_metrics, with the values of every scope: a metric that has scopes has a row for each. Filter by scope.';
COMMENT ON COLUMN scoped_metrics.suite IS 'Name of the suite.';
COMMENT ON COLUMN scoped_metrics.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN scoped_metrics.label IS 'Short name of the phase.';
COMMENT ON COLUMN scoped_metrics.step IS 'Optimizer step of the checkpoint.';
COMMENT ON COLUMN scoped_metrics.tokens_b IS 'Billions of tokens seen by the checkpoint.';
COMMENT ON COLUMN scoped_metrics.probe IS 'Id of the probe.';
COMMENT ON COLUMN scoped_metrics.metric IS 'Id of the metric.';
COMMENT ON COLUMN scoped_metrics.view IS 'stored (as in the file) or effective (after the fold into Llama) for weights, else NULL.';
COMMENT ON COLUMN scoped_metrics.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN scoped_metrics.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN scoped_metrics.head IS 'Attention head, from 0; NULL where it does not apply.';
COMMENT ON COLUMN scoped_metrics.domain IS 'Domain of the text, such as web or code; NULL where it does not apply.';
COMMENT ON COLUMN scoped_metrics.value IS 'The value, in the unit that metrics gives.';
COMMENT ON COLUMN scoped_metrics.run_id IS 'The run that measured it.';
COMMENT ON COLUMN scoped_metrics.scope IS 'Tokens that the statistic is over: all, no_start (without position 0 of each window) or no_massive (without tokens whose RMS is more than 10 times the median token''s at the site). Metrics without scopes have all.';

COMMENT ON VIEW phase_metrics IS 'Every measured value of the newest complete run per checkpoint and probe, over all tokens: one row for each metric and place. scoped_metrics has the other scopes as well. layer and head are NULL where they do not apply, view is stored or effective for weights.';
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

COMMENT ON VIEW scoped_missing_values IS 'As missing_values, with the values of every scope that do not exist.';
COMMENT ON COLUMN scoped_missing_values.suite IS 'Name of the suite.';
COMMENT ON COLUMN scoped_missing_values.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN scoped_missing_values.probe IS 'Id of the probe.';
COMMENT ON COLUMN scoped_missing_values.metric IS 'Id of the metric.';
COMMENT ON COLUMN scoped_missing_values.view IS 'stored (as in the file) or effective (after the fold into Llama) for weights, else NULL.';
COMMENT ON COLUMN scoped_missing_values.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN scoped_missing_values.module IS 'Kind of module, such as q_proj, mlp or residual; NULL for the model as a whole.';
COMMENT ON COLUMN scoped_missing_values.head IS 'Attention head, from 0; NULL where it does not apply.';
COMMENT ON COLUMN scoped_missing_values.domain IS 'Domain of the text, such as web or code; NULL where it does not apply.';
COMMENT ON COLUMN scoped_missing_values.reason IS 'Why there is no value.';
COMMENT ON COLUMN scoped_missing_values.run_id IS 'The run that measured it.';
COMMENT ON COLUMN scoped_missing_values.scope IS 'Tokens that the statistic is over: all, no_start (without position 0 of each window) or no_massive (without tokens whose RMS is more than 10 times the median token''s at the site). Metrics without scopes have all.';

COMMENT ON VIEW missing_values IS 'Values that do not exist (such as the kurtosis of a constant), with the reason; of the scope all. scoped_missing_values has the other scopes as well.';
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

COMMENT ON VIEW data.scoped_changes IS 'As metric_changes, of every scope.';

COMMENT ON VIEW metric_changes IS 'Change of every measured value from a phase to the next one that has it. A phase without a value is passed over: phases_apart is then 2 or more, and the change is one over that many phases. Compare weights in the view effective: stored ones jump where scales are folded in.';
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

COMMENT ON VIEW data.measured_of_values IS 'The rows of data.measured, computed from the values of the scope all.';
COMMENT ON COLUMN data.measurement.scope IS 'all, no_start or no_massive.';
