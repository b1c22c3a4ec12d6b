-- A run's files are compared with their hashes before its values are stored; a run whose file is
-- found damaged later gets the status damaged, and no view shows its values. A failed attempt after
-- a successful one is shown beside the values of the older run.

ALTER TABLE data.run ADD COLUMN verified BOOLEAN;

CREATE OR REPLACE VIEW data.newest_run AS
SELECT * FROM data.run
WHERE status = 'complete'
QUALIFY row_number() OVER (
    PARTITION BY suite, phase, probe, part ORDER BY started_at DESC, run_id
) = 1;

CREATE VIEW data.open_failure AS
WITH complete AS (
    SELECT suite, phase, probe, part, max(started_at) AS newest
    FROM data.run WHERE status = 'complete' GROUP BY ALL
), whole AS (
    SELECT suite, phase, probe, max(newest) AS newest FROM complete GROUP BY ALL
)
SELECT r.*, coalesce(c.newest, w.newest) IS NOT NULL AS measured
FROM data.run r
LEFT JOIN complete c USING (suite, phase, probe, part)
LEFT JOIN whole w
       ON w.suite = r.suite AND w.phase = r.phase AND w.probe = r.probe AND r.part = ''
WHERE r.status <> 'complete' AND NOT coalesce(greatest(c.newest, w.newest) > r.started_at, false)
QUALIFY row_number() OVER (
    PARTITION BY r.suite, r.phase, r.probe, r.part ORDER BY r.started_at DESC, r.run_id
) = 1;

CREATE OR REPLACE VIEW runs AS
SELECT run_id, suite, phase, probe, probe_version, settings, status, started_at, seconds, device,
       dtype, commit_sha, code_version, error, fingerprint, settings_hash, host, repo_id,
       file_hashes, overrides, notes, part, verified
FROM data.run;

CREATE OR REPLACE VIEW coverage AS
WITH measured AS (
    SELECT suite, phase, probe FROM data.run WHERE status = 'complete' GROUP BY ALL
), failed AS (
    SELECT suite, phase, probe, bool_or(measured) AS anew,
           split_part(rtrim(arg_max(error, started_at), chr(10)), chr(10), -1) AS error
    FROM data.open_failure GROUP BY ALL
), cells AS (
    SELECT p.suite, p.phase, b.probe,
           CASE WHEN m.suite IS NOT NULL THEN 'measured'
                WHEN f.suite IS NOT NULL THEN 'failed'
                WHEN p.repo_id IS NULL
                  OR (b.needs = 'optimizer' AND NOT coalesce(p.has_optimizer, false)) THEN 'absent'
                ELSE 'missing' END AS status,
           p.repo_id IS NULL AS unpublished, f.suite IS NOT NULL AS failed, f.anew, f.error
    FROM data.phase p
    CROSS JOIN data.probe b
    LEFT JOIN measured m ON m.suite = p.suite AND m.phase = p.phase AND m.probe = b.probe
    LEFT JOIN failed f ON f.suite = p.suite AND f.phase = p.phase AND f.probe = b.probe
)
SELECT suite, phase, probe, status,
       CASE WHEN status = 'measured' AND anew THEN 'newer attempt failed'
            WHEN status = 'measured' AND failed THEN 'failed in part'
            WHEN status = 'failed' THEN error
            WHEN status = 'absent' AND unpublished THEN 'no checkpoint was published'
            WHEN status = 'absent' THEN 'no optimizer state was published' END AS reason
FROM cells;

COMMENT ON COLUMN data.run.verified IS 'Whether each file was compared with its hash; NULL for runs of versions before 0.4.';
COMMENT ON VIEW data.open_failure IS 'The newest run of each phase, probe and part that failed, or was found to rest on a damaged file, with no complete run after it; measured says whether there is a complete run before it.';

COMMENT ON VIEW runs IS 'Every run with its provenance, failed ones with their traceback. settings, file_hashes, overrides and notes are JSON; times are UTC.';
COMMENT ON COLUMN runs.run_id IS 'Id of the run.';
COMMENT ON COLUMN runs.suite IS 'Name of the suite.';
COMMENT ON COLUMN runs.phase IS 'Phase whose checkpoint was measured.';
COMMENT ON COLUMN runs.probe IS 'Id of the probe.';
COMMENT ON COLUMN runs.probe_version IS 'Version of the probe.';
COMMENT ON COLUMN runs.settings IS 'JSON: settings of the probe.';
COMMENT ON COLUMN runs.status IS 'complete, failed, or damaged: a complete run whose checkpoint was found damaged afterwards.';
COMMENT ON COLUMN runs.started_at IS 'Start of the run, UTC.';
COMMENT ON COLUMN runs.seconds IS 'Duration.';
COMMENT ON COLUMN runs.device IS 'Device of the computation.';
COMMENT ON COLUMN runs.dtype IS 'Type the model computed in.';
COMMENT ON COLUMN runs.commit_sha IS 'Commit of the repository.';
COMMENT ON COLUMN runs.code_version IS 'Version of the workbench.';
COMMENT ON COLUMN runs.error IS 'Traceback of a failed run; which file of a damaged one.';
COMMENT ON COLUMN runs.fingerprint IS 'Hash of everything the numbers depend on.';
COMMENT ON COLUMN runs.settings_hash IS 'SHA-256 of settings.';
COMMENT ON COLUMN runs.host IS 'Name of the machine.';
COMMENT ON COLUMN runs.repo_id IS 'Repository of the checkpoint.';
COMMENT ON COLUMN runs.file_hashes IS 'JSON: content address of each file of the checkpoint, a SHA-256 or a git blob id.';
COMMENT ON COLUMN runs.overrides IS 'JSON: fields of the config that were corrected.';
COMMENT ON COLUMN runs.notes IS 'JSON: facts about the run that are no numbers, such as the hash of the token set.';
COMMENT ON COLUMN runs.part IS 'Piece of the probe''s work, such as one benchmark task; empty for a probe that works in one piece.';
COMMENT ON COLUMN runs.verified IS 'Whether each file was compared with its hash before the values were stored: false for tensors read from the Hub in ranges, NULL for runs of versions before 0.4.';

COMMENT ON VIEW coverage IS 'One row for every phase and probe: measured, failed, missing (not yet run) or absent (nothing was published that the probe could measure).';
COMMENT ON COLUMN coverage.suite IS 'Name of the suite.';
COMMENT ON COLUMN coverage.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN coverage.probe IS 'Id of the probe.';
COMMENT ON COLUMN coverage.status IS 'measured, failed, missing or absent.';
COMMENT ON COLUMN coverage.reason IS 'Of a failed one the error; of an absent one what was not published; of a measured one ''newer attempt failed'' where the values are those of an older run, ''failed in part'' where a part has none; else NULL.';
