"""The page of an audit in a real browser, on a phone, on a desktop and on paper."""

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sk_advdef import Diagnosis
from sk_advdef.evaluation._audit_page import page
from sk_advdef.evaluation._diagnosis import Finding
from sk_advdef.evaluation._telling import TellingRow

pytestmark = pytest.mark.service

# Looks into the page through a frame of a given width, from the same server.
LOOK = """<!DOCTYPE html><link rel="icon" href="data:,"><title>look</title>
<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre id="found"></pre>
<script>
const frame = document.querySelector("iframe");
const parts = (color) => color.match(/[\\d.]+/g).map(Number);
const light = (color) => {{
  const [r, g, b] = parts(color).map((v) => v / 255).map(
    (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}};
frame.onload = () => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  const contrasts = [];
  for (const element of page.querySelectorAll("body *")) {{
    const own = [...element.childNodes].some(
      (node) => node.nodeType === 3 && node.textContent.trim());
    if (!own) continue;
    let ground = element;
    while (ground && parts(view.getComputedStyle(ground).backgroundColor)[3] === 0)
      ground = ground.parentElement;
    const [a, b] = [
      light(view.getComputedStyle(element).color),
      ground ? light(view.getComputedStyle(ground).backgroundColor) : NaN,
    ].sort((x, y) => x - y);
    contrasts.push((b + 0.05) / (a + 0.05));
  }}
  const skip = page.querySelector(".skip");
  const hidden = skip.getBoundingClientRect().right;
  skip.focus();
  const bars = [...page.querySelectorAll("rect.bar")].map(
    (bar) => bar.getBoundingClientRect().width);
  document.querySelector("#found").textContent = JSON.stringify({{
    width: page.documentElement.clientWidth,
    needed: page.documentElement.scrollWidth,
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    contrast: Math.min(...contrasts),
    texts: contrasts.length,
    hidden: hidden,
    shown: skip.getBoundingClientRect().left,
    focused: page.activeElement === skip,
    bars: bars,
    pictures: [...page.images].every((image) => image.naturalWidth > 0),
  }});
}};
</script>
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serve a folder, and keep what was asked for."""

    asked: list

    def log_message(self, *args):
        self.asked.append(self.path)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = shutil.which("chromium")
    assert program, "make test-services installs chromium"
    profile = tmp_path_factory.mktemp("profile")

    def run(*words):
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--enable-logging=stderr", f"--user-data-dir={profile}", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        spoken = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        assert not spoken, spoken
        return done.stdout

    return run


@pytest.fixture
def served(tmp_path, made_by_hand):
    """A page with everything on it, served; yields address, folder, what was asked."""
    long = "a_name_without_a_gap_" * 8
    row = TellingRow(3, long, long, "PGD", np.zeros((3, 3)), np.eye(3) / 9, 1.0)
    found = [Finding(long, s, long, "m", "w") for s in ("severe", "warning", "note")]
    from sk_advdef._images import resolve_layout

    audit = made_by_hand(
        diagnosis=Diagnosis(found),
        fail_under=0.9,
        telling=[row],
        layout=resolve_layout("test", (1, 3, 3), None, -1),
        command=f"sk-advdef audit {long}",
        notes=[long],
    )
    (tmp_path / "report.html").write_text(page(audit), encoding="utf-8")
    asked = []
    handler = type("Handler", (Quiet,), {"asked": asked})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=tmp_path)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_on_a_screen(browser, served, width, scheme):
    address, folder, asked = served
    (folder / "look.html").write_text(LOOK.format(width=width), encoding="utf-8")
    chosen = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    seen = browser(
        chosen, "--virtual-time-budget=5000", "--dump-dom", f"{address}/look.html"
    )
    told = re.search('<pre id="found">(.+?)</pre>', seen)
    found = json.loads(html.unescape(told[1]))
    assert found["dark"] == (scheme == "dark")
    assert found["needed"] <= found["width"] <= width
    assert found["contrast"] >= 4.5 and found["texts"] > 50
    assert found["hidden"] <= 0 <= found["shown"] and found["focused"]
    # the clean rows, the attack, the worst case: as long as their shares
    np.testing.assert_allclose(
        np.array(found["bars"]) / found["bars"][0], [1, 5 / 9, 5 / 9], rtol=0.01
    )
    assert found["pictures"]
    assert set(asked) == {"/look.html", "/report.html"}


def test_page_on_paper(browser, served):
    address, folder, _ = served
    browser(f"--print-to-pdf={folder / 'report.pdf'}", f"{address}/report.html")
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert (folder / "report.pdf").stat().st_size > 10_000
