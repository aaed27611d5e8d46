"""What libraries warn about reaches the user only where it concerns them."""

import sys
import warnings

import pytest

from lightning_unlearn.training.quiet import DEPRECATIONS, quiet_deprecations


@pytest.mark.parametrize("category", DEPRECATIONS)
def test_no_deprecation_is_printed_whatever_a_library_filters(category: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_deprecations():
            # What Lightning does when it is imported: after every filter of ours.
            warnings.simplefilter("default", category)
            warnings.warn("an older name", category, stacklevel=1)
            warnings.warn("Old settings will be deprecated", UserWarning, stacklevel=1)
            warnings.warn("about the data", UserWarning, stacklevel=1)
        warnings.warn("afterwards", category, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["about the data", "afterwards"]


@pytest.mark.filterwarnings("error")
def test_where_warnings_are_errors_deprecations_are_too() -> None:
    with quiet_deprecations(), pytest.raises(FutureWarning, match="an older name"):
        warnings.warn("an older name", FutureWarning, stacklevel=1)


def test_who_asks_for_warnings_sees_deprecations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_deprecations():
            warnings.warn("an older name", DeprecationWarning, stacklevel=1)
    assert len(seen) == 1
