"""Source code as a syntax tree, so that editing comments or docstrings makes no result stale."""

import ast
import inspect
import textwrap

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def syntax_tree(source: str) -> str:
    r"""Return the syntax tree of Python code, without comments, docstrings and formatting.

    Examples
    --------
    >>> syntax_tree("def f(): 'Docs.'; return 1  # why") == syntax_tree("def f():\n  return 1")
    True
    """
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)


def syntax_tree_of(part) -> str:
    """Return the syntax tree of a function or a class."""
    return syntax_tree(inspect.getsource(part))
