-- A task stands for the published benchmark that its group names; the list in the view is for tasks
-- that no group has, such as imported ones. Printed names of one task, such as HumanEval and
-- HUMANEVAL@1, are one benchmark.
CREATE VIEW data.benchmark_name AS
SELECT DISTINCT task, plain, min(plain) OVER (PARTITION BY task) AS name
FROM (
    SELECT task, regexp_replace(lower(benchmark), '[^a-z0-9]', '', 'g') AS plain
    FROM data.benchmark_task WHERE benchmark IS NOT NULL AND task IS NOT NULL
);

CREATE OR REPLACE VIEW published_and_measured AS
WITH listed AS ( -- lm-eval's task -> the name in print, where letters and digits alone do not agree
    FROM (VALUES ('lambadaopenai', 'lambada'), ('lambadastandard', 'lambada'),
                 ('gsm8kcot', 'gsm8k'), ('minervamath500', 'math500'),
                 ('hendrycksmath500', 'math500'), ('cevalvalid', 'ceval'),
                 ('storycloze2016', 'storycloze'), ('storycloze2018', 'storycloze'),
                 ('arcc', 'arcchallenge'), ('arce', 'arceasy'), ('race', 'racehigh'))
        AS t (other, name)
),
score AS (
    SELECT s.*, coalesce(task.name, print.name, l.name, s.plain) AS benchmark
    FROM (SELECT *, regexp_replace(lower(task), '[^a-z0-9]', '', 'g') AS plain
          FROM data.scaled_score WHERE is_rate AND phase IS NOT NULL) s
    LEFT JOIN (SELECT DISTINCT task, name FROM data.benchmark_name) task
           ON task.task = s.task AND s.source <> 'published'
    LEFT JOIN (SELECT DISTINCT plain, name FROM data.benchmark_name) print
           ON print.plain = s.plain AND s.source = 'published'
    LEFT JOIN listed l ON l.other = s.plain
),
published AS (SELECT * FROM score WHERE source = 'published'),
measured AS (SELECT * FROM score WHERE source <> 'published')
SELECT coalesce(p.suite, m.suite) AS suite, coalesce(p.phase, m.phase) AS phase,
       coalesce(p.benchmark, m.benchmark) AS benchmark,
       p.task AS published_as, p.model AS published_model, p.setting AS published_setting,
       p.shots AS published_shots, p.value AS published_percent,
       m.task AS measured_task, m.source AS measured_source, m.metric AS measured_metric,
       m.shots AS measured_shots, m.value * m.factor AS measured_percent,
       m.stderr * m.factor AS measured_stderr, m.n AS measured_n,
       m.value * m.factor - p.value AS difference, p.shots = m.shots AS same_shots, m.run_id,
       m.imported_from
FROM published p
FULL JOIN measured m ON m.suite = p.suite AND m.phase = p.phase AND m.benchmark = p.benchmark;

COMMENT ON VIEW data.benchmark_name IS 'The name, in small letters and digits, of the published benchmark that a task stands for, and how else it is printed.';
COMMENT ON VIEW published_and_measured IS 'Scores of the same benchmark, published and measured, side by side in percent; a row with one of them alone where the other is missing. Harness, prompts and shots differ: compare trends, not digits.';
COMMENT ON COLUMN published_and_measured.suite IS 'Name of the suite.';
COMMENT ON COLUMN published_and_measured.phase IS 'Number of the phase.';
COMMENT ON COLUMN published_and_measured.benchmark IS 'Name that both go by, in small letters and digits.';
COMMENT ON COLUMN published_and_measured.published_as IS 'Published: name in print; NULL when nothing was published.';
COMMENT ON COLUMN published_and_measured.published_model IS 'Published: model whose score it is.';
COMMENT ON COLUMN published_and_measured.published_setting IS 'Published: the evaluation setting as printed.';
COMMENT ON COLUMN published_and_measured.published_shots IS 'Published: examples in the prompt; NULL where the authors do not say.';
COMMENT ON COLUMN published_and_measured.published_percent IS 'Published: score as printed, in percent.';
COMMENT ON COLUMN published_and_measured.measured_task IS 'Measured: task of lm-eval; NULL when nothing was measured.';
COMMENT ON COLUMN published_and_measured.measured_source IS 'measured (here) or imported (lm-eval run elsewhere).';
COMMENT ON COLUMN published_and_measured.measured_metric IS 'Measured: metric of lm-eval.';
COMMENT ON COLUMN published_and_measured.measured_shots IS 'Measured: examples in the prompt.';
COMMENT ON COLUMN published_and_measured.measured_percent IS 'Measured: 100 times the rate.';
COMMENT ON COLUMN published_and_measured.measured_stderr IS 'Measured: standard error over the documents, in percentage points.';
COMMENT ON COLUMN published_and_measured.measured_n IS 'Measured: number of documents.';
COMMENT ON COLUMN published_and_measured.difference IS 'Measured less published, in percentage points; NULL where one is missing.';
COMMENT ON COLUMN published_and_measured.same_shots IS 'Whether both have the same number of examples in the prompt; NULL where one does not say.';
COMMENT ON COLUMN published_and_measured.run_id IS 'The run that measured it; NULL where nothing was measured here.';
COMMENT ON COLUMN published_and_measured.imported_from IS 'File of `workbench import`; NULL unless imported.';
COMMENT ON COLUMN data.benchmark_name.task IS 'Name of the task.';
COMMENT ON COLUMN data.benchmark_name.plain IS 'A printed name of the benchmark, in small letters and digits.';
COMMENT ON COLUMN data.benchmark_name.name IS 'The name that all printed names of the task go by.';
