"""The few places of a program's syntax that Python gives no hook for: loops, and built-in functions on symbols."""

import ast
from typing import Any

# Built-in functions that want plain numbers, or ask for a type: calls of these names go through `hooks`.
FUNCTIONS = frozenset(
    {
        "isinstance", "range", "len", "int", "float", "bool", "min", "max", "sum", "round", "abs", "zip", "enumerate",
        "list", "tuple", "sorted", "reversed", "map", "iter", "next", "print", "str", "divmod", "all", "any", "input",
        "set", "hash", "repr", "format",
    }
)  # fmt: skip
LOOP = "@loop"
EACH = "@each"
CALL = "@call"
ITEM = "@item"
SLICE = "@slice"
FORK = "@fork"
JOIN = "@join"
LAST = "@last"
MODULES: set[str] = set()  # names of all modules that were read with hooks; some are gone again
MARK = "@mark"  # variable: how many statements had begun or been left behind when the current one began
PERCENT = "@percent"
BEGIN = "@begin"
ROUND = "@round"
DONE = "@done"
MADE = "@list"
ENTER = "@enter"
ENTRY = "@entry"  # variable of a function: how much had been decided when it began
WITH = "?with"  # variables, which belong to the state: contexts,
RETURNED = "?returned"  # and what is to be returned when a `finally` is done


def rewritten(tree: ast.Module) -> ast.Module:
    """The same program with hooks: `hooks.names()` must be among the module's globals."""
    made: ast.Module = ast.fix_missing_locations(_Rewriter().visit(tree))
    return made


class _Rewriter(ast.NodeTransformer):
    def __init__(self) -> None:
        self.classes = 0
        self.sites = 0
        self.names = 0
        self.finals = 0  # blocks with a `finally` around
        self.ends: dict[ast.AST, ast.stmt] = {}  # of a `while`: its last hook

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.classes += 1
        self.generic_visit(node)
        self.classes -= 1
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before = self.classes, self.finals
        self.classes = self.finals = 0
        returns, node.returns = node.returns, None
        self.generic_visit(node)
        node.returns = returns
        self.classes, self.finals = before
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.target = self.visit(node.target)
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_With(self, node: ast.With) -> ast.AST | list[ast.stmt]:
        """The context has a name, for otherwise no variable shows it while the body runs."""
        if len(node.items) > 1:
            inner = ast.copy_location(ast.With(node.items[1:], node.body), node)
            return self.visit_With(ast.copy_location(ast.With(node.items[:1], [inner]), node))
        self.generic_visit(node)
        return node if self.classes else [self._named(WITH, node.items[0], "context_expr"), node]

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """What a `return` gives has a name while the `finally` behind it runs."""
        self.finals += bool(node.finalbody)
        self.generic_visit(node)
        self.finals -= bool(node.finalbody)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        plain = node.value is None or isinstance(node.value, ast.Constant)
        return node if plain or not self.finals else [self._named(RETURNED, node, "value"), node]

    def _named(self, kind: str, holder: Any, field: str) -> ast.stmt:
        """An assignment of the holder's expression to a new name, which takes its place."""
        self.names += 1
        value = getattr(holder, field)
        name = f"{kind}{self.names}"
        setattr(holder, field, ast.copy_location(ast.Name(name, ast.Load()), value))
        return ast.copy_location(
            ast.Assign([ast.copy_location(ast.Name(name, ast.Store()), value)], value), value
        )

    def visit(self, node: ast.AST) -> Any:
        visited = super().visit(node)
        for block in visited if isinstance(visited, list) else [visited]:
            if not isinstance(block, (*_BLOCKS, ast.excepthandler)) or isinstance(block, ast.ClassDef):
                continue
            for name in ("body", "orelse", "finalbody"):
                statements = getattr(block, name, None)
                if isinstance(statements, list) and statements:
                    setattr(block, name, [made for one in statements for made in self._joined(one)])
        if isinstance(visited, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = visited.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            entered = ast.Assign(
                [ast.Name(ENTRY, ast.Store())], ast.Call(ast.Name(ENTER, ast.Load()), [], [])
            )
            for part in ast.walk(entered):
                ast.copy_location(part, first)
            visited.body.insert(int(documented), entered)
        return visited

    def _joined(self, statement: ast.stmt) -> list[ast.stmt]:
        """A statement between hooks that notice where its branches come together again."""
        if not isinstance(statement, (*_JOINED, *_LAST)) or not any(
            isinstance(n, (ast.Call, ast.If)) for n in ast.walk(statement)
        ):
            return [statement]
        if isinstance(statement, ast.Expr) and _hook(statement):
            return [statement]
        if isinstance(statement, _LAST):
            return [_marked(LAST, [], statement), statement]
        self.sites += 1
        site = ast.Constant(self.sites)
        hooks = [_marked(name, [site], statement) for name in (FORK, JOIN)]
        end = self.ends.pop(statement, None)
        return [hooks[0], statement, hooks[1]] if end is None else [hooks[0], statement, end, hooks[1]]

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.iter = _called(LOOP, [node.iter], node.iter)
        return node

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        self.generic_visit(node)
        test = node.test
        self.sites += 1
        site = ast.copy_location(ast.Constant(self.sites), test)
        node.test = ast.copy_location(ast.BoolOp(ast.And(), [_called(ROUND, [site], test), test]), test)
        begin, done = (
            ast.copy_location(ast.Expr(_called(name, [site], test)), node) for name in (BEGIN, DONE)
        )
        self.ends[node] = done
        return [begin, node]

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        self.generic_visit(node)
        first = node.generators[0]
        target = first.target
        simple = len(node.generators) == 1 and not first.ifs and not first.is_async
        if not simple or _unmovable(node.elt):
            return self._each(node)
        name, made = target.id if isinstance(target, ast.Name) else ITEM_OF, node.elt
        if name == ITEM_OF:
            # A lambda cannot take its argument apart, a comprehension of one item can.
            one = ast.Tuple([ast.Name(ITEM_OF, ast.Load())], ast.Load())
            inner = ast.ListComp(node.elt, [ast.comprehension(target, one, [], 0)])
            made = ast.Subscript(inner, ast.Constant(0), ast.Load())
            ast.fix_missing_locations(ast.copy_location(made, node))
        arguments = ast.arguments(
            posonlyargs=[], args=[ast.arg(name)], kwonlyargs=[], kw_defaults=[], defaults=[]
        )
        function = ast.copy_location(ast.Lambda(arguments, made), node)
        return _called(MADE, [function, first.iter], node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        return self._each(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        self.generic_visit(node)
        return self._each(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        self.generic_visit(node)
        return self._each(node)

    def _each(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> ast.AST:
        for generator in node.generators:
            if not generator.is_async:
                generator.iter = _called(EACH, [generator.iter], generator.iter)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
            function = ast.copy_location(ast.Name(CALL, ast.Load()), node)
            node.args = [node.func, *node.args]
            node.func = function
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        plain = isinstance(node.slice, (ast.Constant, ast.Tuple, ast.UnaryOp))
        if isinstance(node.ctx, ast.Load) and not plain:
            index = node.slice
            if isinstance(index, ast.Slice):
                ends = [part or ast.Constant(None) for part in (index.lower, index.upper, index.step)]
                index = ast.copy_location(ast.Call(ast.Name(SLICE, ast.Load()), ends, []), index)
            return _called(ITEM, [node.value, index], node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mod) and not (
            isinstance(node.left, ast.Constant) and not isinstance(node.left.value, (str, bytes))
        ):
            return _called(PERCENT, [node.left, node.right], node)
        return node


_BLOCKS = (
    ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.If, ast.For, ast.While, ast.With, ast.Try, ast.match_case,
)  # fmt: skip
_JOINED = (
    ast.If, ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.With, ast.Try, ast.Match, ast.For, ast.While,
)  # fmt: skip
_LAST = (ast.Return, ast.Raise, ast.Assert, ast.Delete)  # behind which no branches come together


def _marked(hook: str, arguments: list[ast.expr], statement: ast.stmt) -> ast.stmt:
    """The call of a hook, which notes that a statement begins or is left behind."""
    made = ast.Assign([ast.Name(MARK, ast.Store())], ast.Call(ast.Name(hook, ast.Load()), arguments, []))
    for node in ast.walk(made):
        ast.copy_location(node, statement)
    return made


def _hook(statement: ast.Expr) -> bool:
    call = statement.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in (BEGIN, DONE)


def _called(name: str, arguments: list[ast.expr], at: ast.expr) -> ast.expr:
    function = ast.copy_location(ast.Name(name, ast.Load()), at)
    return ast.copy_location(ast.Call(function, arguments, []), at)


ITEM_OF = "@item"  # what a comprehension runs over, in turn


def _unmovable(node: ast.expr) -> bool:
    """Whether an expression means something else within a lambda."""
    kinds = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
    supers = any(isinstance(n, ast.Name) and n.id in ("super", "__class__", "locals") for n in ast.walk(node))
    return supers or any(isinstance(n, kinds) for n in ast.walk(node))
