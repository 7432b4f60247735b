"""Read by mypy in `make lint`: it knows the package's names, so that the ignored error below has to be one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aalp_lib as aalp

    unknown = aalp.fitt  # type: ignore[attr-defined]
    known = (aalp.fit, aalp.zoo.index, aalp.evaluation.evaluate, aalp.plots.COLOURS, aalp.book.graders, aalp.cli.main)
    grid = aalp.reproduction.grids.Grid
