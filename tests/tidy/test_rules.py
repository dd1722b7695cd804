"""Each rule finds the mistake it is there to find, in a small tree that is clean but for that mistake."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import rules
from tree import Tree

TIDY = Path(__file__).resolve().parent
REPOSITORY = TIDY.parents[1]

HEADER = "// A subject, stated in a few words.\n#pragma once\n"
CLEAN = {
    "README.md": "# Tree\n\nSee [core](runtime/core/README.md).\n",
    "runtime/README.md": "# runtime\n",
    "runtime/core/README.md": "# core\n",
    "runtime/core/units.h": HEADER + "\n#include <cstdint>\n",
    "runtime/plan/README.md": "# plan\n",
    "runtime/plan/plan.h": HEADER + '\n#include "runtime/core/units.h"\n',
    "runtime/plan/plan.cpp": '#include "runtime/plan/plan.h"\n',
    "runtime/exec/README.md": "# exec\n",
    "runtime/exec/executor.cpp": '#include "runtime/plan/plan.h"\n#include "swap/engine.h"\n',
    "swap/README.md": "# swap\n",
    "swap/engine.h": HEADER,
    "swap/ring.cpp": "#include <liburing.h>\n",
    "configs/README.md": "# configs\n",
    "configs/train/job.yaml": "# build/release/sluice train configs/train/job.yaml\n# Needs 4 GiB.\nbase_model: x\n",
    "tests/README.md": "# tests\n",
    "tests/unit/plan_test.cpp": '#include "runtime/plan/plan.h"\n\n#include "swap/engine.h"\n',
    "tests/test_text.py": '"""A test."""\n',
}

# rule, file, its content, what the finding says
MISTAKES = [
    (rules.include_arrows, "runtime/core/a.cpp", '#include "runtime/plan/plan.h"\n', "must not include runtime/plan"),
    (rules.include_arrows, "runtime/plan/a.cpp", '#include "swap/engine.h"\n', "must not include swap"),
    (rules.include_arrows, "swap/a.cpp", '#include "runtime/exec/executor.cpp"\n', "must not include runtime/exec"),
    (rules.include_arrows, "runtime/exec/a.cpp", '#include "tests/unit/plan_test.cpp"\n', "is in none of"),
    (rules.include_arrows, "runtime/plan/a.cpp", '#include "plan.h"\n', "not a path from the root"),
    (rules.include_arrows, "runtime/plan/a.cpp", '  #  include "swap/engine.h"\n', "must not include swap"),
    (rules.include_arrows, "runtime/other/a.cpp", '#include "runtime/core/units.h"\n', "no folder that holds C++"),
    (rules.library_seams, "swap/a.h", HEADER + "#include <liburing.h>\n", "include it in the .cpp"),
    (rules.library_seams, "runtime/exec/a.h", HEADER + "#include <ATen/ATen.h>\n", "include it in the .cpp"),
    (rules.library_seams, "runtime/exec/a.h", HEADER + "#include <cuda_runtime.h>\n", "include it in the .cpp"),
    (rules.library_seams, "runtime/plan/a.cpp", "#include <cuda_runtime.h>\n", "knows nothing of"),
    (rules.library_seams, "swap/a.cpp", "#include <torch/torch.h>\n", "knows nothing of"),
    (rules.library_seams, "runtime/embed/sluice/a.h", HEADER + "#include <ATen/ATen.h>\n", "include it in the .cpp"),
    (rules.header_opening, "swap/a.h", "#pragma once\n", "states its subject"),
    (rules.header_opening, "swap/a.h", "// a.h\n#pragma once\n", "states its subject"),
    (rules.header_opening, "swap/a.h", "// A subject, stated in a few words.\nint f();\n", "#pragma once"),
    (rules.header_opening, "swap/a.h", HEADER + "#pragma once\n", "#pragma once"),
    (rules.formatting, "swap/a.cpp", "int  f( );\n", "make format"),
    (rules.python_lint, "tests/test_a.py", "import os\n", "F401"),
    (rules.top_level, "notes.txt", "x\n", "the design allows"),
    (rules.top_level, "src/a.txt", "x\n", "the design allows"),
    (rules.readmes, "optim/adamw.cpp", "", "missing"),
    (rules.readmes, "runtime/train/trainer.cpp", "", "missing"),
    (rules.readmes, "swap/README.md", "no title\n", "opens with its title"),
    (rules.readmes, "swap/README.md", "# swap\n" + "line\n" * 100, "one page"),
    (rules.job_headers, "configs/train/a.yaml", "# Needs 4 GiB.\nbase_model: x\n", "exact command"),
    (rules.job_headers, "configs/train/a.yaml", "# sluice train a.yaml\nbase_model: x # 4 GiB\n", "how much memory"),
    (rules.forbidden_words, "swap/a.cpp", "// TO" + "DO: later\n", "unfinished work"),
    (rules.forbidden_words, "swap/a.md", "see /ro" + "ot/model\n", "a path of one machine"),
    (rules.forbidden_words, "swap/a.txt", "https://py" + "pi.org/simple\n", "a registry's host"),
    (rules.text_hygiene, "swap/a.cpp", "// " + "x" * 130 + "\n", "at most 120 fit"),
    (rules.text_hygiene, "tests/test_a.py", "# " + "x" * 130 + "\n", "at most 130 fit"),
    (rules.text_hygiene, "swap/CMakeLists.txt", "project(x) \n", "spaces at the end"),
    (rules.text_hygiene, "swap/a.cpp", "int f() {\n\treturn 1;\n}\n", "a tab"),
    (rules.unsafe_calls, "runtime/text/a.py", "import pickle\n", "runs what a file says"),
    (rules.unsafe_calls, "runtime/text/a.py", "load(trust_remote_code=True)\n", "a model's own code"),
    (rules.unsafe_calls, "runtime/text/a.py", "x = eval(text)\n", "text as code"),
    (rules.unsafe_calls, "runtime/text/a.py", "jinja2.Environment()\n", "Sandboxed"),
    (rules.unsafe_calls, "swap/a.cpp", "void f() { listen(1, 2); }\n", "nothing of ours listens"),
    (rules.unsafe_calls, "swap/a.cpp", "auto t = std::chrono::system_clock::now();\n", "never goes back"),
    (rules.unsafe_calls, "swap/a.cpp", 'int x = system("ls");\n', "runs a shell"),
    (rules.unsafe_calls, "swap/a.cpp", "void f() { sprintf(a, b); }\n", "past the end"),
    (rules.text_hygiene, "swap/a.cpp", "int f();", "the last line has no end"),
    (rules.links, "swap/a.md", "see [the ring](ring.h)\n", "leads nowhere"),
]


@pytest.fixture
def make_tree(tmp_path):
    def make(changes=None):
        for name in (".clang-format", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, tmp_path)
        for path, content in {**CLEAN, **(changes or {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return Tree(tmp_path)
    return make


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_clean_tree_has_no_finding(make_tree, rule):
    assert [str(finding) for finding in rule(make_tree())] == []


@pytest.mark.parametrize(("rule", "path", "content", "says"), MISTAKES)
def test_mistake_is_found_where_it_is(make_tree, rule, path, content, says):
    findings = list(rule(make_tree({path: content})))
    assert any(says in finding.text for finding in findings), findings
    top = path.split("/")[0]
    assert {finding.path for finding in findings} <= {path, top, str(Path(path).parent / "README.md")}


def test_every_rule_has_a_mistake_to_find():
    assert {rule for rule, *_ in MISTAKES} == set(rules.RULES)


def test_every_arrow_of_the_design():
    middle = ("swap", "optim", "models", "runtime/plan")
    order = [("runtime/core",), middle, ("runtime/exec",), ("runtime/train",), ("runtime/cli", "runtime/embed")]
    rank = {folder: i for i, folders in enumerate(order) for folder in folders}
    for source in rank:
        for target in rank:
            allowed = source == target or rank[target] < rank[source]
            assert (rules.wrong_arrow(f"{source}/a.cpp", f"{target}/b.h") is None) == allowed, (source, target)


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
def test_files_that_git_ignores_are_left_alone(make_tree, tmp_path):
    make_tree({".gitignore": "scratch/\n", "scratch/a.cpp": "int  f( );", "new.txt": "not added yet\n"})
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    paths = Tree(tmp_path).paths
    assert "scratch/a.cpp" not in paths
    assert "new.txt" in paths
    assert "swap/engine.h" in paths


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"swap/a.h": "int  f( );"}, 1)])
def test_program_exits_with_1_on_a_finding_only(make_tree, tmp_path, changes, code):
    make_tree(changes)
    done = subprocess.run([sys.executable, TIDY / "tidy.py", tmp_path], capture_output=True, text=True)
    assert done.returncode == code, done.stdout
    assert ("swap/a.h:1: " in done.stdout) == bool(code)
