"""The range test: losses rise and fall where they must, and the suggested rate trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.config import Config
from multitask.errors import RunError
from multitask.progress import Quiet
from multitask.training.fitting import fit
from multitask.tuning.rates import fastest, smoothed, try_rates

pytestmark = pytest.mark.tensor


@pytest.mark.slow
def test_the_suggested_rate_trains_better_than_one_far_below_and_one_far_above(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(epochs=3)
    found = try_rates(config, "rates", Quiet(), tmp_path)
    assert found.plot.is_file()
    table = pd.read_csv(tmp_path / "rates/learning_rates.csv")
    assert table["learning_rate"].is_monotonic_increasing
    assert table["loss"].notna().all()
    assert found.fastest <= found.least

    def loss(rate: float) -> float:
        fields = config.model_dump()
        fields["fit"]["learning_rate"] = rate
        run = fit(Config(**fields), f"at-{rate:f}", root=tmp_path)
        return float(pd.read_csv(run.folder / "history.csv")["val_loss"].min())

    assert loss(found.fastest) < min(loss(found.fastest / 300), loss(30.0))


def test_a_smoothed_constant_is_that_constant_and_the_fastest_fall_lies_before_the_least() -> None:
    np.testing.assert_allclose(smoothed([2.0] * 7), 2.0)
    rates = np.geomspace(1e-6, 1, 100)
    values = 2 - np.tanh(np.linspace(-6, 4, 100)) + np.where(np.arange(100) > 90, 50.0, 0.0)
    found = fastest(pd.DataFrame({"learning_rate": rates, "smoothed": values}))
    assert found == pytest.approx(rates[60], rel=0.5), "the middle of the fall"


def test_a_name_that_leads_elsewhere_is_refused(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r'"\.\." cannot be the name'):
        try_rates(make_config(), "..", Quiet(), tmp_path)
