"""What the tests of pages see with: each fault of a page by hand is seen, and a sound page has none."""

import re
import time
from contextlib import suppress
from pathlib import Path

import pytest
from browser import (
    axe,
    downloaded,
    emulate,
    errors,
    evaluate,
    lacking,
    opened,
    printed,
    requests,
    started,
    warnings,
    whole,
)

pytestmark = pytest.mark.slow

READY = "window.mupcheck = { ready: Promise.resolve() };"


def write(folder: Path, body: str = "", *, script: str = "", ready: str = READY, styles: str = "") -> Path:
    """A page without faults, but for what is put into it."""
    path = folder / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>'
        f"<style>{styles}</style></head><body><main><h1>A page</h1>{body}</main>"
        f"<script>{ready}\n{script}</script></body></html>"
    )
    return path


@pytest.fixture
def sound(tmp_path) -> Path:
    return write(tmp_path, '<p>Text</p><img alt="a dot" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">')


def test_a_sound_page_has_no_errors_no_requests_and_no_violations(browser, sound):
    with opened(browser, sound) as page:
        assert evaluate(page, "document.querySelector('p').textContent") == "Text"
        assert errors(page) == requests(page) == axe(page) == []
        # looking has left nothing behind either
        assert errors(page) == requests(page) == []


def test_a_page_has_its_width_and_a_tab_of_its_own(browser, sound):
    for _ in range(2):
        with opened(browser, sound) as page:
            assert evaluate(page, "innerWidth") == 1280
            assert evaluate(page, "window.left = (window.left || 0) + 1") == 1
    assert len(browser.window_handles) == 1


def test_evaluate_waits_for_promises_and_raises_what_is_thrown(browser, sound):
    with opened(browser, sound) as page:
        assert evaluate(page, "new Promise((done) => setTimeout(() => done([1, { a: null }]), 50))") == [1, {"a": None}]
        assert evaluate(page, "undefined") is None
        for script in ("nothing.there", "Promise.reject(new Error('no'))", "(() => { throw 'no' })()", "1 +"):
            with pytest.raises(RuntimeError, match=re.escape(script)):
                evaluate(page, script)
        assert errors(page) == []  # these are the test's


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("console.error('first')", '"first"'),
        ("setTimeout(() => { null.field; }, 0)", "Uncaught TypeError"),
        ("Promise.reject(new Error('nobody minds'))", "nobody minds"),
        ("document.body.append(Object.assign(new Image(), { alt: '', src: 'not_there.png' }))", "not_there.png"),
    ],
)
def test_an_error_in_the_console_is_seen(browser, tmp_path, script, said):
    with opened(browser, write(tmp_path, script=script)) as page:
        evaluate(page, "new Promise((done) => setTimeout(done, 100))")
        (error,) = errors(page)
        assert said in error
        # it is kept, and what comes later is added
        evaluate(page, "console.error('later')")
        assert [error] == errors(page)[:1] and "later" in errors(page)[1] and len(errors(page)) == 2


def test_what_is_logged_without_being_an_error_is_none_and_another_page_has_its_own(browser, tmp_path):
    script = "console.log('a'); console.info('b'); console.warn('c'); Promise.reject(1).catch(() => 0);"
    with opened(browser, write(tmp_path, script="console.error('of the first page')")):
        pass
    with opened(browser, write(tmp_path, script=script)) as page:
        assert errors(page) == []
        (warned,) = warnings(page)
        assert '"c"' in warned


MARKUP = """
<img alt="" src="http://example.invalid/i.png"><link rel="stylesheet" href="https://example.invalid/a.css">
<style>@import "https://example.invalid/b.css";</style>
<style>@font-face { font-family: f; src: url("https://example.invalid/f"); }</style>
<p style="font-family: f">text</p><script src="https://example.invalid/a.js"></script>
<iframe title="a frame" src="https://example.invalid/page"></iframe>
"""
WITHIN = """
<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><iframe title="a frame" srcdoc="text"></iframe>
<a href="https://example.invalid/">a link</a>
"""


@pytest.mark.parametrize(
    ("body", "script", "addresses"),
    [
        ("", "fetch('http://127.0.0.1:9/x').catch(() => 0)", ["http://127.0.0.1:9/x"]),
        ("", "navigator.sendBeacon('https://example.invalid/b', 'x')", ["https://example.invalid/b"]),
        ("", "new WebSocket('ws://127.0.0.1:9/s')", ["ws://127.0.0.1:9/s"]),
        (MARKUP, "", re.findall(r"https?://[^\"]+", MARKUP)),
        (WITHIN, "fetch('data:,x'); fetch(URL.createObjectURL(new Blob(['x'])))", []),
    ],
)
def test_a_request_that_leaves_the_file_is_seen(browser, tmp_path, body, script, addresses):
    with opened(browser, write(tmp_path, body, script=script)) as page:
        evaluate(page, "new Promise((done) => setTimeout(done, 100))")
        assert sorted(requests(page)) == sorted(addresses)
        assert len(requests(page)) == len(addresses)


def test_a_page_that_is_ready_late_is_waited_for(browser, tmp_path):
    late = "setTimeout(() => { window.mupcheck = { ready: new Promise((r) => setTimeout(r, 200)).then(done) }; }, 200);"
    late += "function done() { window.done = true; }"
    with opened(browser, write(tmp_path, ready=late)) as page:
        assert evaluate(page, "window.done") is True


@pytest.mark.parametrize(
    ("ready", "why"),
    [
        ("", "not ready within 0.5 s: it has no window.mupcheck.ready"),
        (
            "window.mupcheck = { ready: new Promise(() => 0) };",
            "0.5 s: its window.mupcheck.ready is still pending",
        ),
        ("window.mupcheck = { ready: Promise.reject(new Error('no data')) };", "ready was rejected: Error: no data"),
        ("console.error('the reason');", "window.mupcheck.ready\n.*the reason"),
        ("while (true);", "within 0.5 s: it did not load, or hangs"),
        ("console.error('the reason'); setTimeout(() => { while (true); }, 100);", "or hangs\n.*the reason"),
    ],
)
def test_a_page_that_is_never_ready_says_so_in_time(browser, tmp_path, ready, why):
    start = time.monotonic()
    with (
        pytest.raises(TimeoutError, match=rf"^page\.html was .*{why}"),
        opened(browser, write(tmp_path, ready=ready), timeout=0.5),
    ):
        pytest.fail("it was opened")
    assert time.monotonic() - start < 5
    # the browser goes on
    with opened(browser, write(tmp_path)) as page:
        assert evaluate(page, "1 + 1") == 2


def test_a_page_that_hangs_later_is_given_up(browser, tmp_path):
    path = write(tmp_path)
    with (
        opened(browser, path, timeout=0.5) as page,
        pytest.raises(TimeoutError, match=r"page\.html did not answer within 1\.5 s"),
    ):
        evaluate(page, "(() => { while (true); })()")
    with opened(browser, path) as page:
        assert evaluate(page, "1 + 1") == 2
    assert len(browser.window_handles) == 1


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>", "image-alt, critical: "),
        ("<p style='color: #999'>pale</p>", "color-contrast, serious: "),
        ("<svg role='graphics-document' width='9' height='9'><path d='M0 0h9v9z'/></svg>", "svg-img-alt, serious: "),
        ("<button></button>", "button-name, critical: "),
        ("<svg role='img' aria-label='a chart'><text y='20' fill='#333'>dark</text></svg>", None),
        ("<p style='color: #595959'>dark enough</p><button>Save CSV</button>", None),
    ],
)
def test_what_some_readers_cannot_use_is_found(browser, tmp_path, body, rule):
    with opened(browser, write(tmp_path, body)) as page:
        found = axe(page)
        assert [line.startswith(rule or "") for line in found] == ([True] if rule else []), found
        assert found == axe(page)


def test_axe_runs_under_a_policy_that_allows_no_requests(browser, tmp_path):
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    path = write(tmp_path, "<button></button>")
    rule = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    path.write_text(path.read_text().replace("<title>", f"{rule}<title>"))
    with opened(browser, path) as page:
        assert len(axe(page)) == 1
        assert errors(page) == []


DARK = """
body { background: rgb(255, 255, 255); }
@media (prefers-color-scheme: dark) { body { background: rgb(1, 2, 3); } }
"""
COLOUR = "getComputedStyle(document.body).backgroundColor"


def test_a_reader_who_prefers_dark_pages(browser, tmp_path):
    at_load = "window.dark = matchMedia('(prefers-color-scheme: dark)').matches"
    path = write(tmp_path, styles=DARK, script=at_load)
    with opened(browser, path, scheme="dark") as page:
        assert evaluate(page, f"[dark, {COLOUR}]") == [True, "rgb(1, 2, 3)"]
        emulate(page, "light")
        assert evaluate(page, f"[dark, {COLOUR}]") == [True, "rgb(255, 255, 255)"]
        emulate(page, "dark")
        assert evaluate(page, COLOUR) == "rgb(1, 2, 3)"
    with opened(browser, path) as page:
        assert evaluate(page, f"[dark, {COLOUR}]") == [False, "rgb(255, 255, 255)"]


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_a_pdf_comes_out_of_the_styles_for_paper(browser, tmp_path):
    styles = "@page { size: 100mm 100mm; } @media print { .screen { display: none; } h2 { break-before: page; } }"
    with opened(browser, write(tmp_path, "<p class='screen'>x</p><h2>Second page</h2>", styles=styles)) as page:
        pdf = printed(page)
        assert pdf.startswith(b"%PDF-") and pages(pdf) == 2
        assert re.search(rb"/MediaBox \[0 0 28[23]\.\S+ 28[23]\.\S+\]", pdf)
        evaluate(page, "document.querySelector('h2').remove()")
        assert pages(printed(page)) == 1


SAVE = """
document.querySelector("button").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([["a,b", "1,\\u03bc", ""].join("\\n")], { type: "text/csv" }));
  link.download = "rows.csv";
  link.click();
};
"""


def test_what_a_button_saves_is_caught(browser, tmp_path):
    with opened(browser, write(tmp_path, "<button id='save'>Save CSV</button>", script=SAVE)) as page:
        # a second file of that name is another file
        for _ in range(2):
            path = downloaded(page, "#save", tmp_path)
            assert (path.name, path.read_text()) == ("rows.csv", "a,b\n1,μ\n")
        assert errors(page) == requests(page) == []


def test_a_file_is_saved_once_it_has_its_content_and_no_part_lies_beside_it(tmp_path):
    part, path = tmp_path / "rows.csv.crdownload", tmp_path / "rows.csv"
    assert whole(tmp_path) is None
    part.write_text("a,b")
    assert whole(tmp_path) is None
    path.touch()
    assert whole(tmp_path) is None
    path.write_text("a,b")
    assert whole(tmp_path) is None
    part.unlink()
    assert whole(tmp_path) == path
    path.write_text("")
    assert whole(tmp_path) is None


def test_a_button_that_saves_nothing_says_so(browser, tmp_path):
    with (
        opened(browser, write(tmp_path, "<button>Save CSV</button>")) as page,
        pytest.raises(TimeoutError, match=r"a click on button in page\.html saved nothing within 0\.3 s"),
    ):
        downloaded(page, "button", tmp_path, timeout=0.3)


def running(word: str) -> list[int]:
    """The processes with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_a_browser_leaves_no_process_and_no_file(browser, sound):
    with started() as driver, opened(driver, sound):
        folder = Path(driver.capabilities["chrome"]["userDataDir"]).parent
        assert len(running(folder.name)) > 1 and folder.exists()
    assert running(folder.name) == [] and not folder.exists()


def test_a_machine_without_chromium_says_what_installs_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lacking() == "no chromium and no chromedriver is installed; `make chromium` installs both"
    (tmp_path / "chromium").touch(0o755)
    assert lacking() == "no chromedriver is installed; `make chromium` installs both"
    targets = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "\nchromium:\n" in targets and "\n\t$(MAKE) chromium\n" in targets.partition("\ndaemons:\n")[2]
    assert "daemons\n" in targets.partition("\ntest:\n")[2].partition("\n\n")[0]
