"""The earlier model whose ids a new one is to keep: found and checked before any work, kept beside what is made."""

from collections.abc import Collection, Sequence

from raydc.core.storage import Store
from raydc.data import DataError
from raydc.tracking import registry
from raydc.training import alignment
from raydc.training.model import ClusteringModel

Earlier = tuple[ClusteringModel, str]
"""A model, and what it is called."""


def find(
    uri: str, shape: Sequence[int], columns: Sequence[str], tracking_uri: str | None, allow_code: Collection[str]
) -> Earlier:
    """The model of a URI, if it can be asked of rows of this shape and these columns; DataError where it cannot."""
    model = registry.load(uri, tracking_uri, allow_code)
    if model.refuses:
        raise DataError(f"align_to: {uri}: a {model.method_name} model assigns no rows to compare: {model.refuses}")
    if tuple(model.shape) != tuple(shape) or (model.columns and columns and tuple(columns) != model.columns):
        raise DataError(
            f"align_to: {uri} is of rows of {named(model.shape, model.columns)}, these are of {named(shape, columns)}: "
            "clusters are compared on rows that both models take"
        )
    return model, registry.origin(uri, tracking_uri).version or uri.rstrip("/").rpartition("/")[2]


def keep(earlier: Earlier | None, store: Store) -> None:
    """Put it into an output directory, unless it holds one already."""
    if earlier is not None and not store.exists(alignment.VERSION):
        alignment.keep(*earlier, store)


def named(shape: Sequence[int], columns: Sequence[str]) -> str:
    """Rows in a few words."""
    some = f" ({', '.join(columns[:3])}{', ...' if len(columns) > 3 else ''})" if columns else ""
    return f"{' x '.join(map(str, shape))} features{some}"
