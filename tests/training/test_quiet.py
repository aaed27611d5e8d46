"""Warnings of libraries are printed only if they concern the user."""

import sys
import warnings

import pytest

from lightning_unlearn.training.quiet import DEPRECATIONS, quiet_deprecations


@pytest.mark.parametrize("category", DEPRECATIONS)
def test_no_deprecation_is_printed_whatever_a_library_filters(category: type[Warning]) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_deprecations():
            # Lightning installs this filter on import, after every filter of this package.
            warnings.simplefilter("default", category)
            warnings.warn("an older name", category, stacklevel=1)
            warnings.warn("Old settings will be deprecated", UserWarning, stacklevel=1)
            warnings.warn("about the data", UserWarning, stacklevel=1)
        warnings.warn("afterwards", category, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["about the data", "afterwards"]


@pytest.mark.filterwarnings("error")
def test_deprecations_are_errors_if_warnings_are_errors() -> None:
    with quiet_deprecations(), pytest.raises(FutureWarning, match="an older name"):
        warnings.warn("an older name", FutureWarning, stacklevel=1)


def test_deprecations_are_printed_if_the_user_requests_warnings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet_deprecations():
            warnings.warn("an older name", DeprecationWarning, stacklevel=1)
    assert len(seen) == 1
