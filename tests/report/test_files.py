"""Reports as files: complete, self-contained, and true to the records."""

import base64
import dataclasses
import html
import re

import pytest

from autocompress.errors import StoreError
from autocompress.report import write_report
from autocompress.report.data import read_report_data
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory, Ledger
from tests.cli.support import invoke
from tests.written import plan, propose, record


def rows(page, table):
    body = re.search(rf'<table[^>]*id="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL).group(1)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in cells]


def test_the_page_tells_what_the_records_tell(ended):
    path = write_report(ended)
    assert path == ended.path / "report.html"
    page = path.read_text()
    trials = rows(page, "trials")
    assert [row[2] for row in trials] == ["0.5", "0.6", "0.55", "0.575"]
    assert [row[11] for row in trials] == ["within", "outside", "within", "within"]
    assert trials[3][4:9] == ["57.5%", "57.5%", "57.5%", "0.895", "+0.004"]
    assert rows(page, "layers") == [
        ["conv", "Conv2d", "16", "8", "900", "900", "700", "700", "2", "2"],
        ["out", "Linear", "10", "0", "100", "0", "100", "0", "-", "0"],
        ["whole model", "", "-", "-", "1,000", "425", "800", "340", "3", "1"],
    ]
    for key in (each.key for each in read_report_data(ended).records):
        assert f'href="trials/{key}/record.json"' in page
    assert "autocompress run" in page
    assert "--max-relative-drop 1" in html.unescape(page)


def test_the_page_needs_nothing_else(ended):
    page = write_report(ended).read_text()
    assert (
        re.findall(
            r'(?:src|href|url)\s*[=(]\s*["\']?(?!data:|#|trials/)([^"\')\s>]+)', page.replace("xlink:href", "href")
        )
        == []
    )
    assert "@import" not in page
    assert "prefers-color-scheme: dark" in page
    assert page.count("<svg") == 3
    assert not re.search(r"fill: #|stroke: #", page), "every colour of the plots follows the page's theme"


def test_plots_are_written_beside_it(ended, tmp_path):
    path = CompressionResult(ended).report(tmp_path / "elsewhere" / "digits.html")
    names = {file.name for file in (path.parent / "plots").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("accuracy", "path", "curves") for kind in ("png", "svg")}
    assert (path.parent / "plots" / "path.png").read_bytes().startswith(b"\x89PNG")
    assert 'href="../experiment/trials/' in path.read_text()


def test_what_users_wrote_is_escaped(begun):
    reference = {**plan().module, "class_name": "<script>alert(1)</script>"}
    begun.write_settings(plan(module=reference).to_dict())
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    ledger.add(dataclasses.replace(record(key, rate, feasible=False), state="failed", accuracy=None, error="<b>&"))
    page = write_report(begun).read_text()
    assert "<script>alert" not in page
    assert "failed: &lt;b&gt;&amp;" in page


def test_an_experiment_of_which_nothing_has_ended(begun):
    page = write_report(begun).read_text()
    assert "Nothing stayed within the accuracy budget in 0 trials." in page


def test_no_experiment_no_report(tmp_path):
    with pytest.raises(StoreError, match="holds no experiment"):
        write_report(ExperimentDirectory(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(ended, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"report .*file/report.html cannot be written"):
        write_report(ended, tmp_path / "file" / "report.html")


def test_the_command(ended, tmp_path):
    answer = invoke("report", ended.path, "--out", tmp_path / "page.html")
    assert answer.exit_code == 0, answer.output
    assert answer.output == f"wrote {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").exists()


def test_notebooks_show_the_verdict_and_the_plots(ended):
    shown = CompressionResult(ended)._repr_html_()
    assert "l2 at rate 0.575 removes 57.5% of the parameters" in shown
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert len(images) == 3
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)


def test_a_data_frame_of_the_trials(ended):
    frame = CompressionResult(ended).to_dataframe()
    assert list(frame.columns) == [field.name for field in dataclasses.fields(record("k", 0.5, feasible=True))]
    assert list(frame.requested_rate) == [0.5, 0.6, 0.55, 0.575]
    assert list(frame.feasible) == [True, False, True, True]
    assert frame.accuracy.max() == 0.895


@pytest.mark.parametrize("link", ["report.html", "plots", "plots/trials.svg"])
def test_no_report_is_written_through_a_link(begun, tmp_path, link):
    """An experiment's directory that came from elsewhere may lead out of itself."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    target = precious if link == "plots" else precious / "file"
    (begun.path / link).parent.mkdir(exist_ok=True)
    (begun.path / link).symlink_to(target)
    with pytest.raises(StoreError, match="must not be written through a link"):
        write_report(begun)
    assert [entry.read_text() for entry in precious.iterdir()] == ["mine"]
