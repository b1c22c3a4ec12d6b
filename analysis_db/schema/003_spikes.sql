-- Events of series in full, the series that led them, and the scores of runs.
ALTER TABLE data.spike ADD COLUMN run VARCHAR;
ALTER TABLE data.spike ADD COLUMN kind VARCHAR;
ALTER TABLE data.spike ADD COLUMN severity VARCHAR;
ALTER TABLE data.spike ADD COLUMN recovery_steps BIGINT;
ALTER TABLE data.spike ADD COLUMN agreement SMALLINT;
ALTER TABLE data.spike ADD COLUMN judges SMALLINT;
ALTER TABLE data.spike ADD COLUMN attempt INTEGER;
ALTER TABLE data.spike ADD COLUMN superseded_from BIGINT;
ALTER TABLE data.spike ADD COLUMN note VARCHAR;

CREATE TABLE data.spike_lead (
    series VARCHAR NOT NULL, detector VARCHAR NOT NULL, start_step BIGINT NOT NULL,
    attempt INTEGER NOT NULL, leader VARCHAR NOT NULL, lead_steps BIGINT, left_at BIGINT,
    direction VARCHAR, strength DOUBLE, look_back BIGINT NOT NULL, quiet_look_backs DOUBLE NOT NULL,
    false_lead_rate DOUBLE NOT NULL, p_value DOUBLE NOT NULL, q_value DOUBLE NOT NULL,
    run VARCHAR NOT NULL
);

CREATE TABLE data.spike_score (
    series VARCHAR NOT NULL, detector VARCHAR NOT NULL, run VARCHAR NOT NULL,
    metric VARCHAR NOT NULL, module VARCHAR, layer SMALLINT, n BIGINT NOT NULL,
    eligible BIGINT NOT NULL, flags BIGINT NOT NULL, falls BIGINT NOT NULL,
    spike_score_all DOUBLE, spike_score_eligible DOUBLE, nonfinite BIGINT NOT NULL,
    restarts STRUCT(from_step BIGINT, to_step BIGINT)[] NOT NULL,
    gaps STRUCT(from_step BIGINT, to_step BIGINT)[] NOT NULL
);

CREATE OR REPLACE VIEW spikes AS
SELECT series, detector, start_step, end_step, peak_step, peak_value, score, recovered_at, run,
       kind, severity, recovery_steps, agreement, judges, attempt, superseded_from, note
FROM data.spike;

CREATE VIEW spike_leads AS
SELECT series, detector, start_step, attempt, leader, lead_steps, left_at, direction, strength,
       look_back, quiet_look_backs, false_lead_rate, p_value, q_value, run
FROM data.spike_lead;

CREATE VIEW spike_scores AS
SELECT series, detector, run, metric, module, layer, n, eligible, flags, falls, spike_score_all,
       spike_score_eligible, nonfinite, restarts, gaps
FROM data.spike_score;

COMMENT ON VIEW spikes IS 'Events found in series of training runs by `workbench spikes`. kind tells spikes (above the values before them) from falls (below them, as schedules make them) and values that are not finite: count spikes with kind = ''spike''.';
COMMENT ON VIEW spike_leads IS 'What every other series of the run did before each event: lead_steps says by how many steps it left its band first (NULL: it did not), p_value and q_value how often it does so when nothing follows.';
COMMENT ON VIEW spike_scores IS 'How much of each searched series a detector flags, and the series'' restarts and gaps; a row for every series and detector searched, events or none.';
COMMENT ON TABLE data.spike_lead IS 'Other series before events.';
COMMENT ON TABLE data.spike_score IS 'Series searched for events.';

COMMENT ON COLUMN spikes.series IS 'Series that was searched: RUN/METRIC[/MODULE][/LAYER].';
COMMENT ON COLUMN spikes.detector IS 'olmo2, olmo_core or mad; nonfinite for values that are not finite.';
COMMENT ON COLUMN spikes.start_step IS 'First flagged step.';
COMMENT ON COLUMN spikes.end_step IS 'Last flagged step.';
COMMENT ON COLUMN spikes.peak_step IS 'Step of the value farthest from the window, from the start until the recovery and at most a window after the end; may lie after end_step, since a long spike hides from its detector once the window is full of it.';
COMMENT ON COLUMN spikes.peak_value IS 'Value at the peak; NULL when it is not finite.';
COMMENT ON COLUMN spikes.score IS 'Height of the peak over the values before the start, in the detector''s unit; negative for a fall.';
COMMENT ON COLUMN spikes.recovered_at IS 'First step after the end back below centre + 1 spread of the values before the start; NULL if never.';
COMMENT ON COLUMN spikes.run IS 'Training run of the series.';
COMMENT ON COLUMN spikes.kind IS 'spike, fall or nonfinite.';
COMMENT ON COLUMN spikes.severity IS 'minor; major: 3 thresholds high, or back only after more than 50 usual strides; severe: never back, or not finite. NULL for a fall.';
COMMENT ON COLUMN spikes.recovery_steps IS 'Steps from start_step to recovered_at.';
COMMENT ON COLUMN spikes.agreement IS 'Number of detectors that flag the same direction there, this one included.';
COMMENT ON COLUMN spikes.judges IS 'Number of detectors that had a whole window of values before the start.';
COMMENT ON COLUMN spikes.attempt IS 'Attempt of the run, from 1, that logged the start; each restart begins another.';
COMMENT ON COLUMN spikes.superseded_from IS 'Step from which on a restart overrode the history in which the event lies; NULL for the history that holds.';
COMMENT ON COLUMN spikes.note IS 'What to know of the event, such as that its window reaches back over a restart.';

COMMENT ON COLUMN spike_leads.series IS 'Series of the event.';
COMMENT ON COLUMN spike_leads.detector IS 'Detector of the event.';
COMMENT ON COLUMN spike_leads.start_step IS 'First flagged step of the event.';
COMMENT ON COLUMN spike_leads.attempt IS 'Attempt of the run, from 1, that logged the event''s start.';
COMMENT ON COLUMN spike_leads.leader IS 'The other series.';
COMMENT ON COLUMN spike_leads.lead_steps IS 'Steps between its leaving its band and the event''s series leaving its own; NULL: it did not leave first.';
COMMENT ON COLUMN spike_leads.left_at IS 'Step at which it left its band: median +- 5 x 1.4826 MAD of the values before the look-back (128, or as many as a longer look-back holds).';
COMMENT ON COLUMN spike_leads.direction IS 'up or down.';
COMMENT ON COLUMN spike_leads.strength IS 'Farthest from the centre of its band before the event''s series left its own, in 1.4826 MAD; NULL when a value was not finite.';
COMMENT ON COLUMN spike_leads.look_back IS 'Steps before the event that were looked at.';
COMMENT ON COLUMN spike_leads.quiet_look_backs IS 'Independent stretches of that length in the same run in which nothing followed.';
COMMENT ON COLUMN spike_leads.false_lead_rate IS 'Part of the quiet steps at which the series had left its band.';
COMMENT ON COLUMN spike_leads.p_value IS '(K q + 1) / (K + 1): q the part of the quiet steps at which the series was as strong, K the quiet look-backs.';
COMMENT ON COLUMN spike_leads.q_value IS 'p_value corrected for the number of series tested on the event (Benjamini-Hochberg).';
COMMENT ON COLUMN spike_leads.run IS 'Training run of both series.';

COMMENT ON COLUMN spike_scores.series IS 'Series that was searched: RUN/METRIC[/MODULE][/LAYER].';
COMMENT ON COLUMN spike_scores.detector IS 'olmo2, olmo_core or mad.';
COMMENT ON COLUMN spike_scores.run IS 'Training run of the series.';
COMMENT ON COLUMN spike_scores.metric IS 'Logged quantity.';
COMMENT ON COLUMN spike_scores.module IS 'Kind of module; NULL for the model as a whole.';
COMMENT ON COLUMN spike_scores.layer IS 'Layer, from 0; NULL where it does not apply.';
COMMENT ON COLUMN spike_scores.n IS 'Finite values of the history that holds.';
COMMENT ON COLUMN spike_scores.eligible IS 'Values with a whole window before them since the beginning or the last gap.';
COMMENT ON COLUMN spike_scores.flags IS 'Values flagged.';
COMMENT ON COLUMN spike_scores.falls IS 'Flags below the window, among flags.';
COMMENT ON COLUMN spike_scores.spike_score_all IS '100 flags / n.';
COMMENT ON COLUMN spike_scores.spike_score_eligible IS '100 flags / eligible; NULL when nothing could be judged.';
COMMENT ON COLUMN spike_scores.nonfinite IS 'Values that are not finite.';
COMMENT ON COLUMN spike_scores.restarts IS 'Restarts: last step logged, step taken up again.';
COMMENT ON COLUMN spike_scores.gaps IS 'Gaps: last step before, first step after.';
