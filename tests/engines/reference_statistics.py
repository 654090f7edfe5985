"""What lifelines, statsmodels and scipy say of the data on standard input, as JSON; run by their own environment.

Input: {"strata": [{"lengths", "ended"}], "x", "y", "day_x", "day_y", "days", "degrees"}.
"""

import json
import sys

import numpy as np
import statsmodels.api as sm
from lifelines import KaplanMeierFitter
from scipy import stats


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
    json.dump(
        {
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
