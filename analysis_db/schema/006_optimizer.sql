-- A probe that reads the optimizer's state can measure only the phases whose state was published.

CREATE OR REPLACE VIEW coverage AS
WITH newest AS (
    SELECT suite, phase, probe, status FROM data.run
    QUALIFY row_number() OVER (
        PARTITION BY suite, phase, probe ORDER BY status = 'complete' DESC, started_at DESC, run_id
    ) = 1
), cells AS (
    SELECT p.suite, p.phase, b.probe, n.status,
           CASE WHEN n.status IS NOT NULL THEN NULL
                WHEN p.repo_id IS NULL THEN 'no checkpoint was published'
                WHEN b.needs = 'optimizer' AND NOT coalesce(p.has_optimizer, false)
                THEN 'no optimizer state was published' END AS reason
    FROM data.phase p
    CROSS JOIN data.probe b
    LEFT JOIN newest n ON n.suite = p.suite AND n.phase = p.phase AND n.probe = b.probe
)
SELECT suite, phase, probe,
       CASE WHEN status = 'complete' THEN 'measured'
            WHEN status = 'failed' THEN 'failed'
            WHEN reason IS NOT NULL THEN 'absent'
            ELSE 'missing' END AS status,
       reason
FROM cells;

COMMENT ON VIEW coverage IS 'One row for every phase and probe: measured, failed, missing (not yet run) or absent (nothing was published that the probe could measure; reason says what is not there).';
COMMENT ON COLUMN coverage.suite IS 'Name of the suite.';
COMMENT ON COLUMN coverage.phase IS 'Number of the phase, from 1, in order of training.';
COMMENT ON COLUMN coverage.probe IS 'Id of the probe.';
COMMENT ON COLUMN coverage.status IS 'measured, failed, missing or absent.';
COMMENT ON COLUMN coverage.reason IS 'Of an absent one, what was not published: the checkpoint, or the optimizer''s state; else NULL.';
