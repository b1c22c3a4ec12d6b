"""Queries that answer real questions: for the SQL page, for ``workbench sql --example``.

They hold for every suite of the store at once; add ``AND suite = 'yulan-mini'`` for one. A value of
one attention head (``head`` is not NULL) stands beside that of the whole tensor: none of them mixes
the two.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A query with the question it answers."""

    name: str
    """As the command line takes it."""
    title: str
    question: str
    sql: str


EXAMPLES = (
    Example(
        "residual-growth",
        "Where the residual stream grows fastest, phases 20 to 27",
        "After which layer does the residual stream's variance grow fastest between phases 20 and "
        "27?",
        """\
SELECT suite, layer,
       max(value) FILTER (phase = 20) AS at_20,
       max(value) FILTER (phase = 27) AS at_27,
       round(sqrt(at_27 / at_20), 3) AS growth_of_norm
FROM phase_metrics
WHERE metric = 'variance_mean' AND module = 'residual' AND head IS NULL AND phase IN (20, 27)
GROUP BY suite, layer
HAVING at_20 > 0 AND at_27 IS NOT NULL
ORDER BY suite, growth_of_norm DESC, layer""",
    ),
    Example(
        "maths-and-layers",
        "Layers that move when the share of maths rises",
        "Which layers' weights move more into phases with a larger share of maths than the phase "
        "before, and how much do they move otherwise?",
        """\
WITH mix AS (  -- of phase 26's two runs, the long-context one leads on
    SELECT suite, phase, sum(share) FILTER (category = 'math') AS maths
    FROM data_mix_share
    WHERE run IS DISTINCT FROM '26-4k'
    GROUP BY suite, phase
), turns AS (
    SELECT suite, phase, maths - lag(maths) OVER (PARTITION BY suite ORDER BY phase) AS rise
    FROM mix
), moves AS (
    SELECT suite, phase, layer,
           abs(value / lag(value) OVER (PARTITION BY suite, layer, module ORDER BY phase) - 1)
               AS change
    FROM phase_metrics
    WHERE metric = 'rms' AND view = 'effective' AND head IS NULL AND layer IS NOT NULL
      AND module LIKE '%_proj'
)
SELECT suite, layer,
       round(100 * avg(change) FILTER (rise > 0), 3) AS percent_when_maths_rose,
       round(100 * avg(change) FILTER (rise <= 0), 3) AS percent_otherwise,
       count(DISTINCT phase) FILTER (rise > 0) AS phases_with_a_rise
FROM moves JOIN turns USING (suite, phase)
WHERE change IS NOT NULL
GROUP BY suite, layer
ORDER BY suite, percent_when_maths_rose DESC, layer""",
    ),
    Example(
        "largest-logits",
        "Attention heads with the largest logits",
        "Which heads reach the largest attention logits, in which phase, and where did they start?",
        """\
SELECT suite, layer, head,
       round(max(value), 2) AS max_logit, arg_max(phase, value) AS in_phase,
       round(arg_min(value, phase), 2) AS in_first_phase
FROM phase_metrics
WHERE metric = 'max_logit' AND head IS NOT NULL
GROUP BY suite, layer, head
ORDER BY max_logit DESC, suite, layer, head
LIMIT 20""",
    ),
    Example(
        "code-loss-and-share",
        "Does the loss on code follow the share of code?",
        "How do bits per byte of code go with the share of code in the phase, as levels and as "
        "changes from phase to phase? Few phases: read it as a hint.",
        """\
WITH mix AS (
    SELECT suite, phase, sum(share) FILTER (category = 'code') AS share
    FROM data_mix_share
    WHERE run IS DISTINCT FROM '26-4k'
    GROUP BY suite, phase
), paired AS (
    SELECT m.suite, m.phase, m.value AS bits, mix.share,
           m.value - lag(m.value) OVER w AS d_bits, mix.share - lag(mix.share) OVER w AS d_share
    FROM phase_metrics m JOIN mix USING (suite, phase)
    WHERE m.metric = 'bits_per_byte' AND m.domain = 'code' AND m.module IS NULL
    WINDOW w AS (PARTITION BY m.suite ORDER BY m.phase)
)
SELECT suite, count(*) AS phases, round(corr(bits, share), 3) AS of_levels,
       round(corr(d_bits, d_share), 3) AS of_changes
FROM paired
GROUP BY suite""",
    ),
    Example(
        "loss-by-domain",
        "Loss of each domain, phase by phase",
        "How many bits per byte does each kind of text cost, in every phase?",
        """\
SELECT suite, phase, any_value(label) AS label, domain, round(avg(value), 4) AS bits_per_byte
FROM phase_metrics
WHERE metric = 'bits_per_byte' AND module IS NULL
GROUP BY suite, phase, domain
ORDER BY suite, domain, phase""",
    ),
    Example(
        "annealing-gain",
        "What the last phases bring, by domain",
        "How much of the whole fall of the loss comes in the annealing stage, for each domain?",
        """\
SELECT m.suite, m.domain, round(arg_min(m.value, m.phase), 3) AS first,
       round(arg_max(m.value, m.phase) FILTER (p.stage <> 'annealing'), 3) AS before_annealing,
       round(arg_max(m.value, m.phase), 3) AS last,
       round(100 * (before_annealing - last) / (first - last), 1) AS percent_in_annealing
FROM phase_metrics m JOIN phases p USING (suite, phase)
WHERE m.metric = 'nll' AND m.domain IS NOT NULL AND m.module IS NULL
GROUP BY m.suite, m.domain
ORDER BY m.suite, percent_in_annealing DESC, m.domain""",
    ),
    Example(
        "matrices-that-grew",
        "Matrices that grew most",
        "Which matrices of which layers grew most between the first and the last measured phase?",
        """\
SELECT suite, layer, module, arg_min(value, phase) AS first, arg_max(value, phase) AS last,
       round(last / first, 2) AS growth
FROM phase_metrics
WHERE metric = 'rms' AND view = 'effective' AND layer IS NOT NULL AND head IS NULL
GROUP BY suite, layer, module
ORDER BY growth DESC, suite, layer, module
LIMIT 20""",
    ),
    Example(
        "largest-jumps",
        "The largest jumps of any weight from one phase to the next",
        "Between which neighbouring phases did the RMS of which matrix jump most, and is it the "
        "network or only the form in which it is stored?",
        """\
WITH steps AS (
    SELECT suite, view, layer, module, phase, value,
           lag(phase) OVER w AS before, abs(ln(value / lag(value) OVER w)) AS jump
    FROM phase_metrics
    WHERE metric = 'rms' AND head IS NULL AND value > 0
    WINDOW w AS (PARTITION BY suite, view, layer, module ORDER BY phase)
)
SELECT suite, before AS from_phase, phase AS to_phase, view, module,
       round(exp(max(jump)), 3) AS largest_factor, arg_max(layer, jump) AS in_layer
FROM steps
WHERE jump IS NOT NULL
GROUP BY suite, before, phase, view, module
ORDER BY largest_factor DESC, suite, to_phase, view, module
LIMIT 20""",
    ),
    Example(
        "scores-and-loss",
        "Benchmark scores beside the loss",
        "How does each measured benchmark go with the mean loss over the phases?",
        """\
WITH loss AS (
    SELECT suite, phase, avg(value) AS nll
    FROM phase_metrics
    WHERE metric = 'nll' AND domain IS NOT NULL AND module IS NULL
    GROUP BY suite, phase
)
SELECT b.suite, b.task, b.metric, count(*) AS phases,
       round(arg_min(b.value, b.phase), 3) AS first, round(arg_max(b.value, b.phase), 3) AS last,
       round(avg(b.stderr), 3) AS stderr, round(corr(b.value, l.nll), 3) AS corr_with_loss
FROM benchmarks b JOIN loss l USING (suite, phase)
WHERE b.source = 'measured'
GROUP BY b.suite, b.task, b.metric
ORDER BY b.suite, b.task, b.metric""",
    ),
    Example(
        "published-scores",
        "Published scores, phase by phase",
        "What did the authors publish for their own phases? Another harness: compare trends only.",
        """\
SELECT suite, phase, task, metric, value AS published, shots, setting
FROM benchmarks
WHERE source = 'published' AND phase IS NOT NULL
ORDER BY suite, task, metric, phase""",
    ),
    Example(
        "mix-changes",
        "What changed in the data mix",
        "Which buckets of the data mix gained or lost most from one phase to the next?",
        """\
WITH shares AS (
    SELECT suite, phase, bucket, sum(share) AS share
    FROM data_mix_share
    WHERE run IS DISTINCT FROM '26-4k'
    GROUP BY suite, phase, bucket
), wide AS (  -- a bucket that is not in a phase has the share 0 there
    SELECT suite, phase, bucket, coalesce(s.share, 0) AS share
    FROM (SELECT DISTINCT suite, phase FROM shares) p
    JOIN (SELECT DISTINCT suite, bucket FROM shares) b USING (suite)
    LEFT JOIN shares s USING (suite, phase, bucket)
)
SELECT suite, phase, bucket, round(100 * share, 2) AS percent,
       round(100 * (share - lag(share) OVER (PARTITION BY suite, bucket ORDER BY phase)), 2)
           AS points_gained
FROM wide
QUALIFY points_gained IS NOT NULL
ORDER BY abs(points_gained) DESC, suite, phase, bucket
LIMIT 20""",
    ),
    Example(
        "training-curve",
        "The training run in windows of 50 steps",
        "How did loss and gradient norm go, and how unquiet were they?",
        """\
SELECT run, step // 50 * 50 AS from_step,
       round(avg(value) FILTER (metric = 'loss'), 4) AS loss,
       round(stddev_pop(value) FILTER (metric = 'loss'), 4) AS loss_std,
       round(max(value) FILTER (metric = 'grad_norm'), 4) AS largest_grad_norm
FROM training_steps
WHERE metric IN ('loss', 'grad_norm') AND layer IS NULL AND module IS NULL
GROUP BY run, from_step
ORDER BY run, from_step""",
    ),
    Example(
        "missing",
        "What is missing, and what failed",
        "Which phases lack which probes, and why?",
        """\
SELECT suite, probe, status, count(*) AS phases, string_agg(phase, ', ' ORDER BY phase) AS which
FROM coverage
WHERE status <> 'measured'
GROUP BY ALL
ORDER BY ALL""",
    ),
    Example(
        "slowest-runs",
        "Slowest runs",
        "Which measurements took longest, and on what?",
        """\
SELECT suite, phase, probe, status, round(seconds, 2) AS seconds, device, dtype, started_at
FROM runs
ORDER BY seconds DESC
LIMIT 20""",
    ),
)
