"""What lifelines, statsmodels and scipy say of the data on standard input, as JSON; run by their own environment.

Input: {"strata": [{"lengths", "ended"}], "x", "y", "day_x", "day_y", "days", "degrees", "in_arm", "differences"}.
"""

import json
import sys

import numpy as np
import statsmodels.api as sm
from lifelines import KaplanMeierFitter
from scipy import stats


def x_of(asked: dict[str, list[float]]) -> np.ndarray:
    """The covariate."""
    return np.array(asked["x"])


def main() -> None:
    """Answer on standard output."""
    asked = json.load(sys.stdin)
    curves = []
    for stratum in asked["strata"]:
        fitted = KaplanMeierFitter().fit(stratum["lengths"], stratum["ended"]).survival_function_
        curves.append({"tokens": fitted.index.tolist(), "survival": fitted["KM_estimate"].tolist()})
    ols = sm.OLS(np.array(asked["y"]), sm.add_constant(np.array(asked["x"]))).fit()
    # A ratio of sums is least squares through the origin, weighted by 1 / x; its clustered error is the block error.
    x, y = np.array(asked["day_x"]), np.array(asked["day_y"])
    ratio = sm.WLS(y, x, weights=1 / x).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(asked["days"]), "df_correction": True}, use_t=True
    )
    # Lin's estimator is the arm's coefficient where covariates are centred and each arm has slopes of its own.
    in_arm, centred = np.array(asked["in_arm"], float), x_of(asked) - x_of(asked).mean()
    lin = sm.OLS(
        np.array(asked["y"]), np.column_stack([np.ones_like(centred), in_arm, centred, in_arm * centred])
    ).fit()
    # Yuen's test against nought: the second sample has no spread, so its error is that of the first alone.
    differences = np.array(asked["differences"])
    yuen = stats.ttest_ind(differences, np.zeros_like(differences), equal_var=False, trim=0.1)
    json.dump(
        {
            "lin": lin.params[1],
            "yuen_ci95": [float(end) for end in yuen.confidence_interval(0.95)],
            "curves": curves,
            "intercept": ols.params[0],
            "slope": ols.params[1],
            "r2": ols.rsquared,
            "ratio": ratio.params[0],
            "ratio_ci95": ratio.conf_int()[0].tolist(),
            "t": [stats.t.ppf(0.975, degrees) for degrees in asked["degrees"]],
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
