"""`ponder report`: a study's report, plots and table."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", "-o", type=click.Path(path_type=Path), help="The file to write; DIR/report.html by default.")
@click.option("--png", is_flag=True, help="Also write plots as PNG, beside the report.")
@click.option("--svg", is_flag=True, help="Also write plots as SVG, beside the report.")
@click.option("--axis", "-x", help="What compute means in the plots: generated_tokens, samples, calls, flops, …")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the files, the recommendation, the law.")
def command(folder: Path, out: Path | None, png: bool, svg: bool, axis: str | None, as_json: bool) -> None:
    """Write the report of the study in DIR: one HTML file that opens offline."""
    from ponder.errors import StudyError
    from ponder.reports.html import write_report
    from ponder.studies.measured import Measured
    from ponder.studies.recommend import Recommendation, recommend

    data = Measured.load(folder)
    advice: Recommendation | None = None
    problem = ""
    try:
        advice = recommend(data, axis=axis)
    except StudyError as error:  # every strategy is an oracle: there is a report, but nothing to recommend
        problem = str(error)
    path = write_report(folder, out)
    formats = ["png"] * png + ["svg"] * svg
    plots: list[Path] = []
    if formats:
        from ponder.reports.plots import write_plots

        plots = write_plots(data, formats=formats, out=path.parent, axis=axis, advice=advice)
    if as_json:
        import json

        from ponder.reports.html import coverage_fit
        from ponder.studies.how_well import how_well

        fit = coverage_fit(data)
        law = None if fit is None or fit.law is None else dict(fit.law.parameters)
        beta = None if fit is None or fit.beta is None else dict(fit.beta.parameters)
        click.echo(
            json.dumps(
                {
                    "report": str(path),
                    "plots": [str(p) for p in plots],
                    "recommendation": None if advice is None else advice.as_dict(),
                    "coverage_law": law,
                    "beta_binomial_law": beta,
                    "how_well": [w.as_dict() for w in how_well(data, data.axis(axis))],
                    "rows": [dict(p.row) for p in data.points],
                },
                indent=2,
            )
        )
        return
    from rich.console import Console

    from ponder.reports.table import results_table

    console = Console(highlight=False)
    console.print(results_table([p.row for p in data.points]))
    console.print()
    console.print(problem if advice is None else str(advice), markup=False, soft_wrap=True)
    for file in (path, *plots):
        console.print(f"written: {file}", markup=False, soft_wrap=True)
