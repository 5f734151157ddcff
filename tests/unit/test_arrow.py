"""Results as Arrow columns."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ray_pipelines.arrow import results_to_arrow

LABEL = pa.struct([("label", pa.string()), ("score", pa.float32())])


@pytest.mark.parametrize("kind", [LABEL, pa.list_(LABEL), pa.struct([("labels", pa.list_(LABEL))])])
def test_fields_that_the_type_has_not_are_an_error_and_not_a_loss(kind: pa.DataType) -> None:
    def result(**fields: object) -> object:
        if kind == LABEL:
            return fields
        return [fields] if pa.types.is_list(kind) else {"labels": [{"label": "a"}, fields]}

    fitting, other = result(label="a", score=0.5), result(label="b", text="c")
    column, errors = results_to_arrow([fitting, other], kind, is_own=True)
    assert [value.is_valid for value in column] == [True, False]
    assert errors[0] is None and errors[1] is not None
    assert errors[1].type == "InvalidRow" and "results have 'text'" in errors[1].message
