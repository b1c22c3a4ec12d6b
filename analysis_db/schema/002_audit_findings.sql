-- What `workbench audit` found: the newest audit of each phase, and its findings.

CREATE TABLE data.audit (
    suite VARCHAR NOT NULL, phase INTEGER NOT NULL, repo_id VARCHAR, revision VARCHAR,
    commit_sha VARCHAR, bytes_read BIGINT NOT NULL, audited_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE data.audit_finding (
    suite VARCHAR NOT NULL, phase INTEGER NOT NULL, severity VARCHAR NOT NULL,
    check_id VARCHAR NOT NULL, message VARCHAR NOT NULL, evidence VARCHAR NOT NULL
);

CREATE VIEW findings AS
SELECT f.suite, f.phase, a.repo_id, a.commit_sha, f.severity, f.check_id, f.message, f.evidence,
       a.audited_at AS found_at
FROM data.audit_finding f
JOIN data.audit a ON a.suite = f.suite AND a.phase = f.phase;

CREATE VIEW audits AS
SELECT a.suite, a.phase, a.repo_id, a.revision, a.commit_sha,
       count(*) FILTER (f.severity = 'error') AS errors,
       count(*) FILTER (f.severity = 'warning') AS warnings,
       count(*) FILTER (f.severity = 'note') AS notes,
       a.bytes_read, a.audited_at
FROM data.audit a
LEFT JOIN data.audit_finding f ON f.suite = a.suite AND f.phase = a.phase
GROUP BY ALL;

COMMENT ON TABLE data.audit IS 'The newest audit of each phase.';
COMMENT ON TABLE data.audit_finding IS 'What the newest audit of each phase found.';

COMMENT ON VIEW findings IS 'What the newest audit of each phase found wrong, doubtful or worth knowing of its checkpoint.';
COMMENT ON VIEW audits IS 'One row per phase that was ever audited: its newest audit. A phase without a row was never audited; one with no errors was, and is sound.';

COMMENT ON COLUMN findings.suite IS 'Name of the suite.';
COMMENT ON COLUMN findings.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN findings.repo_id IS 'Repository of the checkpoint; NULL when none was published.';
COMMENT ON COLUMN findings.commit_sha IS 'Commit that was audited; NULL when there was none.';
COMMENT ON COLUMN findings.severity IS 'error (the phase''s numbers would be wrong, or there can be none), warning (look before you use it) or note.';
COMMENT ON COLUMN findings.check_id IS 'Stable id of the check, such as identical-weights.';
COMMENT ON COLUMN findings.message IS 'What was found and what it means, in one sentence.';
COMMENT ON COLUMN findings.evidence IS 'JSON: the files, hashes, values or names behind the sentence.';
COMMENT ON COLUMN findings.found_at IS 'Time of the audit, UTC.';

COMMENT ON COLUMN audits.suite IS 'Name of the suite.';
COMMENT ON COLUMN audits.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN audits.repo_id IS 'Repository of the checkpoint; NULL when none was published.';
COMMENT ON COLUMN audits.revision IS 'Branch, tag or commit that was asked for.';
COMMENT ON COLUMN audits.commit_sha IS 'Commit that was audited; NULL when there was none.';
COMMENT ON COLUMN audits.errors IS 'Number of findings that are errors.';
COMMENT ON COLUMN audits.warnings IS 'Number of findings that are warnings.';
COMMENT ON COLUMN audits.notes IS 'Number of findings that are notes.';
COMMENT ON COLUMN audits.bytes_read IS 'Bytes of files that were read for it: headers, configs, samples; never whole weights.';
COMMENT ON COLUMN audits.audited_at IS 'Time of the audit, UTC.';
