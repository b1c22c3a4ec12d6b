-- What a run has measured, a row for each metric, view and module: the menus of the pages would
-- otherwise go through every value.
CREATE TABLE data.measured (
    run_id VARCHAR NOT NULL, metric VARCHAR NOT NULL, view VARCHAR, module VARCHAR,
    by_layer BOOLEAN NOT NULL, by_head BOOLEAN NOT NULL, by_domain BOOLEAN NOT NULL,
    n BIGINT NOT NULL
);

CREATE VIEW data.measured_of_values AS
SELECT run_id, metric, view, module, bool_or(layer IS NOT NULL) AS by_layer,
       bool_or(head IS NOT NULL) AS by_head, bool_or(domain IS NOT NULL) AS by_domain,
       count(*) AS n
FROM data.measurement
WHERE value IS NOT NULL
GROUP BY run_id, metric, view, module;

INSERT INTO data.measured FROM data.measured_of_values;

COMMENT ON TABLE data.measured IS 'What runs have measured: number of values, and which coordinates they have, by metric, view and module.';
COMMENT ON VIEW data.measured_of_values IS 'The rows of data.measured, computed from the values.';
COMMENT ON COLUMN data.measured.run_id IS 'The run.';
COMMENT ON COLUMN data.measured.metric IS 'Id of the metric.';
COMMENT ON COLUMN data.measured.view IS 'stored or effective for weights, else NULL.';
COMMENT ON COLUMN data.measured.module IS 'Kind of module; NULL for the model as a whole.';
COMMENT ON COLUMN data.measured.by_layer IS 'Whether any value belongs to a layer.';
COMMENT ON COLUMN data.measured.by_head IS 'Whether any value belongs to a head.';
COMMENT ON COLUMN data.measured.by_domain IS 'Whether any value belongs to a domain of text.';
COMMENT ON COLUMN data.measured.n IS 'Number of values.';
