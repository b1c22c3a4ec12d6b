-- Runs that share one import; how severe an event is, and with what settings it was found.
ALTER TABLE data.training_run ADD COLUMN imported_as VARCHAR;

ALTER TABLE data.spike ADD COLUMN severity_score DOUBLE;
ALTER TABLE data.spike ADD COLUMN window_values INTEGER;
ALTER TABLE data.spike ADD COLUMN threshold DOUBLE;
ALTER TABLE data.spike ADD COLUMN join_steps BIGINT;
ALTER TABLE data.spike_score ADD COLUMN window_values INTEGER;
ALTER TABLE data.spike_score ADD COLUMN threshold DOUBLE;
ALTER TABLE data.spike_score ADD COLUMN join_steps BIGINT;

-- Until now every search had these windows and thresholds. How flags were joined was not recorded.
UPDATE data.spike SET
    window_values = CASE detector WHEN 'olmo2' THEN 1000 WHEN 'nonfinite' THEN NULL ELSE 128 END,
    threshold = CASE detector WHEN 'olmo_core' THEN 6 WHEN 'nonfinite' THEN NULL ELSE 7 END;
UPDATE data.spike SET severity_score = 10 WHERE detector = 'nonfinite';
UPDATE data.spike_score SET
    window_values = CASE detector WHEN 'olmo2' THEN 1000 ELSE 128 END,
    threshold = CASE detector WHEN 'olmo_core' THEN 6 ELSE 7 END;

CREATE OR REPLACE VIEW spikes AS
SELECT series, detector, start_step, end_step, peak_step, peak_value, score, recovered_at, run,
       kind, severity, recovery_steps, agreement, judges, attempt, superseded_from, note,
       severity_score, window_values, threshold, join_steps
FROM data.spike;

CREATE OR REPLACE VIEW spike_scores AS
SELECT series, detector, run, metric, module, layer, n, eligible, flags, falls, spike_score_all,
       spike_score_eligible, nonfinite, restarts, gaps, window_values, threshold, join_steps
FROM data.spike_score;

COMMENT ON VIEW spikes IS 'Events found in series of training runs by `workbench spikes`, most severe first with ORDER BY severity_score DESC. kind tells spikes (above the values before them) from falls (below them, as schedules make them) and values that are not finite: count spikes with kind = ''spike''. An event lies in one attempt of its run; superseded_from IS NULL selects the history that holds. window_values and threshold are those of the search: compare counts of equal ones.';
COMMENT ON VIEW spike_scores IS 'How much of each searched series a detector flags with this window and threshold, and the series'' restarts and gaps; a row for every series and detector searched, events or none.';

COMMENT ON COLUMN spikes.series IS 'Series that was searched: RUN/METRIC[/MODULE][/LAYER].';
COMMENT ON COLUMN spikes.detector IS 'olmo2, olmo_core or mad; nonfinite for values that are not finite.';
COMMENT ON COLUMN spikes.start_step IS 'First flagged step.';
COMMENT ON COLUMN spikes.end_step IS 'Last flagged step.';
COMMENT ON COLUMN spikes.peak_step IS 'Step of the value farthest from the window, from the start until the recovery and at most a window after the end; may lie after end_step, since a long spike hides from its detector once the window is full of it.';
COMMENT ON COLUMN spikes.peak_value IS 'Value at the peak; NULL when it is not finite.';
COMMENT ON COLUMN spikes.score IS 'Height of the peak over the values before the start, in the detector''s unit; negative for a fall.';
COMMENT ON COLUMN spikes.recovered_at IS 'First step after the end back below centre + 1 spread of the values before the start; NULL if never in the attempt.';
COMMENT ON COLUMN spikes.run IS 'Training run of the series.';
COMMENT ON COLUMN spikes.kind IS 'spike, fall or nonfinite.';
COMMENT ON COLUMN spikes.severity IS 'minor; major: severity_score from 4.5 (x from 1); severe: not recovered after more than 50 usual strides, or values that are not finite. NULL for a fall. Events found before schema 015: major is 3 thresholds high or back after more than 50 strides.';
COMMENT ON COLUMN spikes.recovery_steps IS 'Steps from start_step to recovered_at.';
COMMENT ON COLUMN spikes.agreement IS 'Number of detectors that flag the same direction there, this one included.';
COMMENT ON COLUMN spikes.judges IS 'Number of detectors that had a whole window of values before the start.';
COMMENT ON COLUMN spikes.attempt IS 'Attempt of the run, from 1, that logged the event; each restart begins another, and no event spans two.';
COMMENT ON COLUMN spikes.superseded_from IS 'Step from which on a restart overrode the history in which the event lies; NULL for the history that holds.';
COMMENT ON COLUMN spikes.note IS 'What to know of the event, such as that its window reaches back over a restart.';
COMMENT ON COLUMN spikes.severity_score IS 'From 0 to 10. x = score / (3 thresholds) + rise + (values until the recovery) / 50, where rise is (peak - centre) / ln 2 of a loss, in bits, and log10(peak / centre) of another quantity. 9 x / (1 + x); 9 + x / (1 + x) when not recovered after more than 50 values; 10 when it contains values that are not finite. NULL for a fall, and for events found before schema 015.';
COMMENT ON COLUMN spikes.window_values IS 'Window of the detector, in values; NULL for nonfinite.';
COMMENT ON COLUMN spikes.threshold IS 'Threshold of the detector, in its spreads; NULL for nonfinite.';
COMMENT ON COLUMN spikes.join_steps IS 'Flags at most so many steps apart form one event; NULL for events found before schema 015.';

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
COMMENT ON COLUMN spike_scores.window_values IS 'Window of the detector, in values.';
COMMENT ON COLUMN spike_scores.threshold IS 'Threshold of the detector, in its spreads.';
COMMENT ON COLUMN spike_scores.join_steps IS 'Flags at most so many steps apart form one event; NULL for searches before schema 015.';
