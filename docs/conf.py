"""Configuration of the documentation site:  make docs, or  python -m sphinx -W --keep-going -b html docs docs/_build

DOCS_PROSE=1 builds the prose alone: it imports nothing of the library, leaves out the API reference and does not run
the notebooks.
"""

import hashlib
import os
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # docstrings.py, below
PROSE = os.environ.get("DOCS_PROSE") == "1"

project = "mecq_jax"
author = "the mecq_jax authors"
project_copyright = author
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]
version = release

extensions = [
    "docstrings",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "jupyter_execute"]
suppress_warnings = ["ref.python"]  # a name that two packages export, such as ArtifactError, is linked to either
if PROSE:
    exclude_patterns += ["api/**"]
    suppress_warnings += ["toc.excluded"]

# Markdown and notebooks.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off" if PROSE else "cache"
# A notebook that was run is kept, as long as the library's code stays as it was.
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HERE.parent.glob("mecq_jax/**/*.py"))))
nb_execution_cache_path = str(HERE / "_build" / "notebooks" / CODE.hexdigest()[:16])
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # notes of XLA on its own compilation
# Code blocks say their language; what is only indented (the heads of generated tables) is text.
highlight_language = "none"

# The reference. Each package says in __all__, or by importing it, what is public.
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a class's `Attributes:` as fields: autodoc documents its properties once
napoleon_use_rtype = False
napoleon_attr_annotations = False  # shapes such as "*g" are no markup

# Code on the pages that is run by `make docs-test`, in a folder of its own.
doctest_global_setup = "import os, tempfile; os.chdir(tempfile.mkdtemp())"

html_theme = "sphinx_book_theme"
html_title = "mecq_jax"
html_theme_options = {"show_navbar_depth": 1, "use_download_button": False}
