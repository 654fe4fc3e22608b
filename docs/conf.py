"""Configuration of the site: ``python -m sphinx -M html docs docs/_build -W --keep-going``.

It needs no network and executes no notebook. Three things are computed here, so that they stay true:

- The tutorials are copied to ``docs/tutorials``, because Sphinx reads only what is below ``docs``.
- Names of the library in inline code, such as ``eq.relax``, become links to the API.
- Each entry of the API names its equations, from the README's table, and the notebooks that use it.
"""

import ast
import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext import autosummary
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import eqprop_np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
TUTORIALS = HERE / "tutorials"
logger = logging.getLogger(__name__)

project = "eqprop_np"
author = "The eqprop_np developers"
copyright = "2026, The eqprop_np developers"
version = release = eqprop_np.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc", "myst_nb"]
exclude_patterns = ["_build", "README.md"]
root_doc = "index"
default_role = "py:obj"
highlight_language = "default"
templates_path: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say the types
autodoc_preserve_defaults = True
autosummary_generate = False
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.", "Eqs.", "Fig.", "Figs.", "resp.")  # they end no sentence
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the stored outputs, which the tests compare with an execution
nb_merge_streams = True

html_theme = "furo"
html_title = f"eqprop_np {release}"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

# One file of MathJax, copied to the site: formulas need no network either.
_mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
if _mathjax is None or _mathjax.origin is None:
    raise RuntimeError('sphinx-mathjax-offline is missing: pip install -e ".[docs]"')
html_static_path.append(str(Path(_mathjax.origin).parent / "static" / "mathjax" / "tex-svg-full.js"))
mathjax_path = "tex-svg-full.js"


# ---- the tutorials


def copy_tutorials() -> None:
    """Copy what changed of the tutorials, with answers folded and links that lead to pages of the site."""
    TUTORIALS.mkdir(exist_ok=True)
    index = (ROOT / "tutorials" / "README.md").read_text(encoding="utf-8")
    names = "\n".join(path.stem for path in NOTEBOOKS)
    _write(TUTORIALS / "README.md", f"{_site_links(index)}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n")
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = _site_links("".join(cell["source"]))
            elif {"answer", "hide-cell"} & set(tags := cell["metadata"].get("tags", [])):
                # MyST's "hide-cell" hides outputs too: only those of answers, and not figures.
                cell["metadata"]["tags"] = ["hide-cell" if "answer" in tags else "hide-input"]
        _write(TUTORIALS / path.name, json.dumps(notebook, ensure_ascii=False))
    for path in (
        set(TUTORIALS.iterdir()) - {TUTORIALS / p.name for p in NOTEBOOKS} - {TUTORIALS / "README.md"}
    ):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _site_links(markdown: str) -> str:
    """Return the text with links to the main README changed to the page that includes its sections."""
    markdown = re.sub(r"\]\(\.\./README\.md#from-equation-to-file\)", "](../equations.md)", markdown)
    return re.sub(r"\]\(\.\./README\.md(#[\w-]+)?\)", r"](../results.md\1)", markdown)


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


copy_tutorials()


# ---- equations and notebooks of each function


def _resolve(name: str) -> Any:
    """Return the object that a name of the library stands for, or None."""
    name = re.sub(r"^eq\.|^eqprop_np\.", "", name.removesuffix("()"))
    try:
        return pkgutil.resolve_name(f"eqprop_np.{name}") if name else None
    except (ImportError, AttributeError, ValueError):
        return None


def _table() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what is cited, the functions and the notebooks from the README's "From equation to file"."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = readme.split("| of the abstract |")[1].split("\n\n")[0].splitlines()[2:]
    for row in rows:
        cited, _, functions, notebooks = (cell.strip() for cell in row.strip("|").split("|"))
        yield (
            cited,
            re.findall(r"`([\w.]+)`", functions),
            [Path(link).stem for link in re.findall(r"\]\(([\w/.-]+)\)", notebooks)],
        )


def _uses(path: Path) -> set[str]:
    """Return the names X of all ``eq.X`` in the code of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return set(re.findall(r"\beq\.(\w+)", code))


TABLE = list(_table())
USES = {path.stem: _uses(path) for path in NOTEBOOKS}
TITLES = {
    path.stem: re.sub(r"^#+ ", "", "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])).split(
        "\n"
    )[0]
    for path in NOTEBOOKS
}


def add_places(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Append the equations that an object is named for, and the notebooks that explain or use it."""
    rows = [row for row in TABLE if any(_resolve(function) is obj for function in row[1])]
    notebooks = {stem for row in rows for stem in row[2]}
    notebooks |= {stem for stem, names in USES.items() if any(_resolve(n) is obj for n in names)}
    said = []
    if rows:
        said.append(
            "In the abstract: :doc:`" + "`, :doc:`".join(f"{row[0]} </equations>" for row in rows) + "`."
        )
    if notebooks:
        links = ", ".join(f":doc:`{TITLES[stem]} </tutorials/{stem}>`" for stem in sorted(notebooks))
        said.append(f"{'Notebook' if len(notebooks) == 1 else 'Notebooks'}: {links}.")
    if said:
        lines += ["", ".. container:: places", "", "   " + " ".join(said), ""]


def describe_value(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Give a value such as ``sigmoid`` the text below its definition, which autodoc does not find."""
    if what != "data":
        return
    for module in pkgutil.walk_packages(eqprop_np.__path__, "eqprop_np."):
        if module.name.endswith("__main__"):
            continue
        loaded = importlib.import_module(module.name)
        if getattr(loaded, name.rpartition(".")[2], None) is obj and loaded.__file__:
            body = ast.parse(Path(loaded.__file__).read_text(encoding="utf-8")).body
            for statement, after in pairwise(body):
                target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
                if getattr(target, "id", None) == name.rpartition(".")[2] and isinstance(after, ast.Expr):
                    lines[:] = [*ast.literal_eval(after.value).splitlines(), ""]


def mark_formulas(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Set indented formulas as they stand, and take |x| for an absolute value and not for a substitution."""
    described = next((n for n, line in enumerate(lines) if re.fullmatch(r"\s*-{3,}", line)), len(lines))
    marked: list[str] = []
    literal = False
    for n, line in enumerate(lines):
        paragraph = not line.strip() or not line.startswith("    ")
        if literal and line.strip() and paragraph:
            literal = False
        before = next((earlier for earlier in reversed(marked) if earlier.strip()), "")
        if not literal and not paragraph and n < described and not lines[n - 1].strip():
            in_list = re.match(r"\s*([-*]|\d+\.)\s", before) or before.startswith((" ", ">>>"))
            literal = not in_list
            if literal and not before.endswith("::"):
                marked += ["::", ""]
        if not literal and not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(``.*?``)", line)
            line = "".join(p if p.startswith("``") else p.replace("|", r"\|") for p in parts)
        marked.append(line)
    lines[:] = marked


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, whose only text is "Alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


# ---- names become links


def _documented(env: BuildEnvironment) -> dict[int, str]:
    """Map the id of each object that the API documents to its name there."""
    known: dict[int, str] = {}
    for name, entry in env.domains.python_domain.objects.items():
        obj = _resolve(name)
        if obj is not None and entry.objtype != "module":
            known.setdefault(id(obj), name)
    return known


def _reference(app: Sphinx, docname: str, name: str, content: nodes.Element) -> nodes.reference | None:
    obj = _resolve(name)
    if not hasattr(app.env, "documented"):
        app.env.documented = _documented(app.env)  # type: ignore[attr-defined]
    target = app.env.documented.get(id(obj)) if obj is not None else None  # type: ignore[attr-defined]
    if target is None:
        return None
    entry = app.env.domains.python_domain.objects[target]
    return make_refnode(app.builder, docname, entry.docname, entry.node_id, [content], target)


def resolve_other_names(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """Link a role to the public name of an object that is written with another of its names."""
    if node.get("refdomain") != "py":
        return None
    return _reference(app, node["refdoc"], node["reftarget"], content)


def link_inline_code(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link the names of the library in the inline code of Markdown pages and notebooks."""
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        public = "." in text or text.removesuffix("()") in eqprop_np.__all__
        inside = isinstance(literal.parent, nodes.reference | pending_xref)
        if inside or not public or not re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", text):
            continue
        if reference := _reference(app, docname, text, literal.deepcopy()):
            literal.replace_self(reference)
    if docname == "equations":
        linked = {node.astext() for node in doctree.findall(nodes.reference)}
        for cited, functions, _ in TABLE:
            for function in set(functions) - linked:
                logger.warning("%s: no page of docs/api documents %s", cited, function, location=docname)


def keep_tags(app: Sphinx, doctree: nodes.document) -> None:
    r"""Put formulas of several lines with a \tag into an equation, because the split of Sphinx refuses it."""
    for formula in doctree.findall(nodes.math_block):
        text = formula.astext()
        if r"\tag" in text and r"\\" in text:
            formula.children = [nodes.Text(rf"\begin{{equation}}{text}\end{{equation}}")]
            formula["no-wrap"] = formula["nowrap"] = True  # the second is the name before Sphinx 8.2


def forget(app: Sphinx, env: BuildEnvironment) -> None:
    """The map of documented objects belongs to this process: it must not be stored with the environment."""
    if hasattr(env, "documented"):
        del env.documented


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions above. Text is appended after numpydoc has read the docstring."""
    app.connect("autodoc-process-docstring", describe_value, priority=400)
    app.connect("autodoc-process-docstring", mark_formulas, priority=410)
    app.connect("autodoc-process-docstring", add_places, priority=600)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("doctree-read", keep_tags)
    app.connect("env-updated", forget)
    app.connect("missing-reference", resolve_other_names)
    app.connect("doctree-resolved", link_inline_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
