"""The definitions of what the probe ``activations`` measures."""

from probes.base import Metric

_YULAN = "YuLan-Mini, arXiv 2412.17743, section on training stability"
_MASSIVE = "Sun et al. 2024, arXiv 2402.17762 (massive activations)"
_OLMO2 = "OLMo 2, arXiv 2501.00656, section 3.2"
_SCOPED = (
    "; scopes all, no_start (without position 0 of each window), no_massive (without the "
    "massive_tokens)"
)

METRICS = (
    Metric(id="mean", formula="mean over tokens and features of x" + _SCOPED, source=_YULAN),
    Metric(
        id="variance_mean",
        formula="mean over tokens of the variance over features (Bessel-corrected)" + _SCOPED,
        source=_YULAN,
    ),
    Metric(
        id="rms_mean",
        formula="mean over tokens of sqrt(mean over features x^2)" + _SCOPED,
        source=_YULAN,
    ),
    Metric(
        id="rms_pooled",
        formula="sqrt(mean over tokens and features x^2)" + _SCOPED,
        source="elementary statistics",
    ),
    Metric(id="max_abs", formula="max |x|" + _SCOPED, source=_MASSIVE, version=2),
    Metric(
        id="kurtosis_excess",
        formula="mean(((x - mean)/std)^4) - 3 over tokens and features, population std" + _SCOPED,
        source="Joanes & Gill 1998 (g2)",
    ),
    Metric(
        id="neuron_kurtosis",
        formula="E_j[s_j^4] / (E_j[s_j^2])^2, s_j the RMS of feature j over tokens; in [1, d]"
        + _SCOPED,
        source="He et al. 2024, arXiv 2405.19279",
    ),
    Metric(
        id="variance_median",
        formula="median over tokens of the variance over features (Bessel-corrected)",
        source="workbench; the mean is that of YuLan-Mini, a start token dominates it",
    ),
    Metric(
        id="rms_median",
        formula="median over tokens of sqrt(mean over features x^2)",
        source="workbench",
    ),
    Metric(
        id="max_abs_median",
        formula="median over tokens of max over features |x|",
        source="workbench",
    ),
    Metric(
        id="kurtosis_median",
        formula="median over tokens of mean(((x - mean)/std)^4) - 3 over the token's features, "
        "population std; tokens whose features are all equal are left out",
        source="workbench",
    ),
    Metric(
        id="massive_tokens",
        formula="number of tokens with RMS > 10 x the site's median token RMS, which the scope "
        "no_massive leaves out; their positions are the histogram massive_position",
        unit="tokens",
        source="workbench, after " + _MASSIVE,
    ),
    Metric(
        id="massive_position",
        formula="histogram: number of massive_tokens by position in their window, from 0",
        unit="position",
        source="workbench",
    ),
    *(
        metric
        for rank, which in ((1, "largest"), (2, "second largest"), (3, "third largest"))
        for metric in (
            Metric(
                id=f"top{rank}_abs",
                formula=f"{which} max over windows of |x|, one for each (position, feature); equal "
                "values at two places are two ranks, the lower (position, feature) first",
                source=_MASSIVE,
                version=2,
            ),
            Metric(
                id=f"top{rank}_position",
                formula=f"position in its window of the token that holds top{rank}_abs, from 0",
                unit="position",
                source=_MASSIVE,
                version=2,
            ),
            Metric(
                id=f"top{rank}_feature",
                formula=f"feature that holds top{rank}_abs, from 0",
                unit="feature",
                source=_MASSIVE,
                version=2,
            ),
            Metric(
                id=f"top{rank}_token",
                formula=f"token id at the place of top{rank}_abs; its text is in the run's notes",
                unit="token id",
                source=_MASSIVE,
                version=2,
            ),
        )
    ),
    Metric(
        id="median_abs",
        formula="mean over windows of the (lower) median of |x| over all elements of the window",
        source=_MASSIVE,
        version=3,
    ),
    Metric(id="top1_ratio", formula="top1_abs / median_abs", source=_MASSIVE, version=3),
    Metric(
        id="massive_count",
        formula="number of elements with |x| > 100 and |x| > 1000 x their window's median of |x| "
        "(a flag that small models do not raise)" + _SCOPED,
        unit="elements",
        source=_MASSIVE,
        version=2,
    ),
    Metric(
        id="residual_growth",
        formula="variance_mean(residual, last layer) / variance_mean(residual, first layer)"
        + _SCOPED,
        source=_YULAN,
    ),
    Metric(
        id="residual_growth_median",
        formula="variance_median(residual, last layer) / variance_median(residual, first layer)",
        source="workbench",
    ),
    Metric(
        id="growth_exponent",
        formula="(1/L) ln(|v'|/|v|), v and v' the mean vectors over tokens after the first and "
        "the last block" + _SCOPED,
        source=_OLMO2,
    ),
    Metric(
        id="growth_exponent_norms",
        formula="(1/L) ln(n'/n), n and n' the mean norms over tokens after the first and the "
        "last block" + _SCOPED,
        source=_OLMO2 + " (variant with the mean of norms)",
    ),
    Metric(
        id="dead_fraction",
        formula="share of MLP neurons with max over tokens |h| < tau x the median neuron's max|h|; "
        "scopes all, no_start (without position 0 of each window)",
        unit="fraction",
        source="workbench; tau is a setting",
    ),
    Metric(
        id="logit_lens_kl",
        formula="mean over sampled tokens of KL(p || q) = sum p (ln p - ln q), p the model's "
        "distribution and q that of final norm and head on the layer's residual",
        unit="nats",
        source="nostalgebraist 2020 (logit lens); Belrose et al. 2023, arXiv 2303.08112",
    ),
    Metric(
        id="logit_lens_top1",
        formula="share of sampled tokens at which the layer's likeliest token is the model's",
        unit="fraction",
        source="nostalgebraist 2020 (logit lens)",
    ),
    Metric(
        id="tokens",
        formula="number of tokens that were read; scopes all, no_start (without position 0 of each "
        "window)",
        unit="tokens",
        source="workbench",
    ),
    Metric(
        id="logz_mean",
        formula="mean over tokens of ln sum exp(logits)",
        unit="nats",
        source="de Brébisson & Vincent 2016, arXiv 1604.08859",
    ),
    Metric(id="logit_mean", formula="mean of all logits", source="elementary statistics"),
    Metric(id="logit_max", formula="largest logit", source="elementary statistics"),
    Metric(
        id="logit_std",
        formula="sqrt(mean (logit - mean)^2) over all logits, population",
        source="elementary statistics",
    ),
    Metric(
        id="z_loss",
        formula="mean over tokens of (ln sum exp(logits))^2, without a coefficient",
        unit="nats^2",
        source="Chowdhery et al. 2022, arXiv 2204.02311 (PaLM), section 5",
    ),
)
