"""Sphinx settings; writes api.rst from the public names before the build."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import _api  # noqa: E402

from sk_advdef._version import __version__  # noqa: E402

(HERE / "api.rst").write_text(_api.page(), encoding="utf-8")

project = "sk_advdef"
author = "The sk_advdef developers"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
    "myst_parser",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "sk_advdef"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
autosummary_generate = True
numpydoc_show_class_members = False
# Types are told in the docstrings, in words.
autodoc_typehints = "none"

# Other projects are linked only on request, since that needs their sites.
if os.environ.get("SK_ADVDEF_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "scipy": ("https://docs.scipy.org/doc/scipy", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "skorch": ("https://skorch.readthedocs.io/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }
# Without those links their names stay text; our own names must resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(numpy|np|scipy|sklearn|skorch|torch|matplotlib|pandas)(\..*)?"),
]


def skip_foreign(app, what, name, member, skip, options):
    """Leave out what scikit-learn and torch define: their sites document it."""
    function = member.fget if isinstance(member, property) else member
    home = getattr(function, "__module__", None)
    return True if home and not home.startswith("sk_advdef") else None


def setup(app):
    app.connect("autodoc-skip-member", skip_foreign)
