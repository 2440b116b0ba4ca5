#!/usr/bin/env python3
"""Fails for a source that breaks a rule of docs/style.md that a script can see:
no file is longer than 400 lines, src/ has folders and its CMakeLists.txt only,
and a public header has neither an inline variable nor a static or thread_local
variable in a function, as each shared library would have a copy of it. Nor does
a public header use LibTorch without including it: the check that each compiles
alone precompiles LibTorch, and would not see it."""
import pathlib
import re
import sys

MAX_LINES = 400
INCLUDE = pathlib.Path("include")
TORCH = re.compile(r"\b(Tensor|Module|(torch|at)::\w+)\b")
# Not code: comments, strings and characters, directives with their continuations.
NOISE = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:\\\n|[^\n])*', re.S | re.M
)
TEMPLATE = re.compile(r"<[^<>]*>")


def without_noise(text):
    return NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def without_templates(head):
    while TEMPLATE.search(head):
        head = TEMPLATE.sub("", head)
    return head


def scope_of(head):
    """What a brace behind `head` opens."""
    if re.search(r"\b(namespace|class|struct|union|enum|extern)\b", head) and "(" not in head:
        return "declarations"
    return "body"


def copied_variables(text):
    """The lines with a variable of which each library has a copy."""
    scopes, start = ["declarations"], 0
    code = without_noise(text)
    for match in re.finditer(r"[;{}]", code):
        head = without_templates(code[start : match.start()])
        line = 1 + code.count("\n", 0, match.start() - len(code[start : match.start()].lstrip()))
        if scopes[-1] == "body":
            if re.search(r"\b(static|thread_local)\b", head):
                yield line, "a static or thread_local variable in a function"
        elif match[0] != "}":
            name = head.split("=")[0]
            if re.search(r"\binline\b", name) and not re.search(r"[(]|\b(operator|namespace)\b", name):
                yield line, "an inline variable"
        if match[0] == "{":
            scopes.append(scope_of(head) if scopes[-1] == "declarations" else "body")
        elif match[0] == "}" and len(scopes) > 1:
            scopes.pop()
        start = match.end()


def includes_torch(path):
    """Whether a public header includes LibTorch, by itself or by ours."""
    names = re.findall(r"^#include <(.+)>", path.read_text(), re.M)
    return any(name.startswith(("torch/", "ATen/")) for name in names) or any(
        includes_torch(INCLUDE / name) for name in names if name.startswith("torchlora/")
    )


def main():
    errors = [
        f"{path}: only folders and CMakeLists.txt belong at the top of src/"
        for path in sorted(pathlib.Path("src").iterdir())
        if path.is_file() and path.name != "CMakeLists.txt"
    ]
    count = 0
    for root in ("include", "src"):
        for path in sorted(pathlib.Path(root).rglob("*")):
            if path.suffix not in (".h", ".cpp"):
                continue
            text = path.read_text()
            count += 1
            lines = text.count("\n")
            if lines > MAX_LINES:
                errors.append(f"{path}: {lines} lines, more than {MAX_LINES}: split it by idea")
            if root == "include":
                used = TORCH.search(without_noise(text))
                if used and not includes_torch(path):
                    errors.append(f"{path}: uses {used[0]} without a header that has it (torchlora/types.h)")
                errors += [f"{path}:{line}: {what} in a public header" for line, what in copied_variables(text)]
    if errors:
        sys.exit("\n".join(errors))
    print(f"{count} sources keep the rules of docs/style.md")


if __name__ == "__main__":
    main()
