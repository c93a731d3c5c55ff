"""Sphinx settings; writes api.rst and pictures of the guide before the build."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import _api  # noqa: E402
import _figures  # noqa: E402

from sk_advdef._version import __version__  # noqa: E402

(HERE / "api.rst").write_text(_api.page(), encoding="utf-8")
_figures.draw(HERE / "generated" / "figures")

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
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "gallery/*.ipynb", "gallery/*.py"]
html_theme = "pydata_sphinx_theme"
html_title = "sk_advdef"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "show_prev_next": False,
    # A wide table takes the place of the right column.
    "secondary_sidebar_items": {"**": ["page-toc"], "from_art": []},
    "navbar_align": "left",
    "show_toc_level": 2,
}
# These lead nowhere else, so their left column would be empty.
html_sidebars = {name: [] for name in ("install", "quickstart", "changelog")}
html_show_sourcelink = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
autosummary_generate = True
numpydoc_show_class_members = False
# Types are told in the docstrings, in words.
autodoc_typehints = "none"

# Every story runs at each build that finds it changed; one that fails, fails the build.
sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples" / "gallery"),
    "gallery_dirs": "gallery",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "doc_module": ("sk_advdef",),
    "reference_url": {"sk_advdef": None},
}

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
