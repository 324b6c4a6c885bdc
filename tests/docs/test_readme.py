"""README says what the code does: its example runs, its commands exist, its table is current."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    """The text between `<!-- name -->` and `<!-- /name -->`."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found is not None, f"README has no block {name!r}"
    return found.group(1).strip()


def test_the_capability_table_is_the_one_the_brokers_tell() -> None:
    told = subprocess.run(
        [sys.executable, ROOT / "scripts" / "capabilities.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert block("capabilities") == told.stdout.strip()


def test_the_example_is_the_file_in_examples() -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    assert example.group(1) == (ROOT / "examples" / "hello.py").read_text()


def test_the_example_runs_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text((ROOT / "examples" / "hello.py").read_text())
    commands = re.findall(r"^(ropeway worker hello:app|python hello\.py)\b", README, re.MULTILINE)
    assert commands == ["ropeway worker hello:app", "python hello.py"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    worker = subprocess.Popen(commands[0].split(), cwd=tmp_path, env=env)
    try:
        said = subprocess.run(
            commands[1].split(),
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0
    assert said.stdout == "Hello, Ada!\n[3, 3, 5]\n"


def test_every_script_that_readme_names_can_be_run() -> None:
    named = set(re.findall(r"\bscripts/(\w+)", README))
    assert {"demo", "test"} <= named
    for name in named:
        assert os.access(ROOT / "scripts" / name, os.X_OK), f"scripts/{name} cannot be run"


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    for document in documents:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target} is missing"
