"""Run a mutation test of one module: `make mutation MODULE=… TESTS=…`.

cosmic-ray changes the module in one place at a time and runs the tests. A change that no test
notices is a survivor: either the tests have a gap, or the change has no effect. The run works on
a copy of the tree and on one PostgreSQL server, and takes some seconds per change.
"""

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.postgres import running_cluster

_COSMIC_RAY = ("tool", "run", "--quiet", "--from", "cosmic-ray==8.7.0", "cosmic-ray")

# Changes without an effect: of `X | None` in annotations, and of decorators.
_IGNORED = ("%BitOr%", "%RemoveDecorator%")

_CONFIG = """\
[cosmic-ray]
module-path = "{module}"
timeout = 300
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:randomly -p no:cacheprovider --timeout=60 {tests}"

[cosmic-ray.distributor]
name = "local"
"""


def main() -> None:
    """Run the mutation test and print the survivors."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__)
    parser.add_argument("module", help="path of the module, such as jobs_grpc/auth/claims.py")
    parser.add_argument("tests", nargs="+", help="tests that must notice the changes")
    parser.add_argument("--sample", type=float, default=1, help="part of the changes to try [1]")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="jobs-mutation-") as folder,
        running_cluster() as owner_dsn,
    ):
        tree = Path(folder) / "tree"
        _copy_tree(tree)
        (Path(folder) / "config.toml").write_text(
            _CONFIG.format(module=args.module, python=sys.executable, tests=" ".join(args.tests))
        )
        os.environ["JOBS_TEST_DATABASE_URL"] = owner_dsn
        database = Path(folder) / "session.sqlite"
        _cosmic_ray(tree, "init", "../config.toml", str(database))
        print(f"trying {_select(database, args.sample)} changes of {args.module}", flush=True)
        _cosmic_ray(tree, "baseline", "../config.toml")
        _cosmic_ray(tree, "exec", "../config.toml", str(database))
        _report(database)


def _copy_tree(tree: Path) -> None:
    files = subprocess.check_output(["git", "ls-files", "-z"], text=True)  # noqa: S607
    for name in filter(None, files.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, tree / name)


def _cosmic_ray(tree: Path, *arguments: str) -> None:
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, *_COSMIC_RAY, *arguments], cwd=tree, check=True)  # noqa: S603


def _select(database: Path, sample: float) -> int:
    """Remove ignored changes and keep a random sample of the others; return their number."""
    with sqlite3.connect(database) as connection:
        for table in ("work_items", "mutation_specs"):
            ignored = " OR ".join(f"operator_name LIKE '{pattern}'" for pattern in _IGNORED)
            connection.execute(
                f"DELETE FROM {table} WHERE job_id IN"  # noqa: S608
                f" (SELECT job_id FROM mutation_specs WHERE {ignored})"
            )
        jobs = [row[0] for row in connection.execute("SELECT job_id FROM work_items")]
        dropped = random.sample(jobs, round(len(jobs) * (1 - sample)))
        for table in ("work_items", "mutation_specs"):
            connection.executemany(
                f"DELETE FROM {table} WHERE job_id = ?",  # noqa: S608
                [(job,) for job in dropped],
            )
    return len(jobs) - len(dropped)


def _report(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        results = connection.execute("SELECT test_outcome, diff FROM work_results").fetchall()
    survivors = [diff for outcome, diff in results if outcome != "KILLED"]
    print("\n".join(survivors))
    print(f"{len(results)} changes: {len(results) - len(survivors)} noticed, {len(survivors)} not")


if __name__ == "__main__":
    main()
