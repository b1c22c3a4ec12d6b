-- A suite's name belongs to one definition for as long as there are results under it.
ALTER TABLE data.suite ADD COLUMN definition VARCHAR;

CREATE VIEW data.suite_with_results AS
SELECT suite FROM data.run
UNION SELECT suite FROM data.audit
UNION SELECT suite FROM data.imported_score
UNION SELECT suite FROM data.published_score WHERE imported_from IS NOT NULL
UNION SELECT suite FROM data.data_mix WHERE imported_from IS NOT NULL
UNION SELECT suite FROM data.training_run WHERE suite IS NOT NULL;

CREATE OR REPLACE VIEW suites AS SELECT suite, title, about, licence, definition FROM data.suite;

COMMENT ON VIEW data.suite_with_results IS 'Names of suites under which something was measured, audited, trained or imported.';
COMMENT ON COLUMN data.suite_with_results.suite IS 'Name of the suite.';
COMMENT ON VIEW suites IS 'One row per suite that the store knows.';
COMMENT ON COLUMN suites.suite IS 'Name of the suite.';
COMMENT ON COLUMN suites.title IS 'One line.';
COMMENT ON COLUMN suites.about IS 'What is studied.';
COMMENT ON COLUMN suites.licence IS 'Licence of the checkpoints.';
COMMENT ON COLUMN suites.definition IS 'What defines the suite: catalogue, or the path of a TOML, that of a file in WORKBENCH_HOME from there; NULL where it was recorded by a workbench that did not keep it.';
