"""Carry out the steps of a Dockerfile in a folder, without a container engine or base images.

    python -m tools.dockerfile_tree deploy/docker/server.Dockerfile OUT

Each stage is a folder below OUT that holds only what the stage's own steps wrote. While a step
runs, the machine's /usr and /etc are mounted read-only in place of the base image. So the last
stage's folder is what the Dockerfile adds to its base. An unknown instruction or option is an
error. Needs Linux, and root or user namespaces.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PATH = "/usr/local/bin:/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Settings of package installers; no other variable of this process reaches the steps.
_INSTALLER_SETTING = re.compile(r"PIP_(?!FIND_LINKS)\w+|GO(PROXY|SUMDB|FLAGS)|\w+_(proxy|PROXY)")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(Exception):
    """A step is not supported, or failed."""


@dataclass
class Stage:
    """One stage; the last one is the image."""

    base: str
    root: Path
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def size(self) -> int:
        """Return the size of all files in bytes."""
        return sum(p.lstat().st_size for p in self.root.rglob("*") if not p.is_dir())

    def command_line(
        self, argv: Sequence[str], caches: Sequence[str] = (), *, read_only: bool = False
    ) -> list[str]:
        """Return the command that runs `argv` in the stage.

        `read_only` runs it as the image runs: as its user, with no file that can be written.
        """
        mounts = [("ro", str(self.root), "/")] if read_only else []
        mounts += [("ro", source, target) for source, target in _base_mounts(self.base)]
        mounts += [("rw", _host_cache(cache), cache) for cache in caches]
        mounts += [("rw", "/dev", "/dev"), ("rw", "/proc", "/proc")]
        for _, _, target in mounts:
            self._path(target).mkdir(parents=True, exist_ok=True)
        lines = [
            f"mount --rbind -o {mode} {shlex.quote(source)} {shlex.quote(str(self._path(target)))}"
            for mode, source, target in mounts
        ]
        user = f"--userspec={self.user} " if read_only and self.user else ""
        workdir = shlex.quote(self.workdir)
        lines.append(f'exec chroot {user}{shlex.quote(str(self.root))} "$@"')
        if not read_only:
            argv = ["/bin/sh", "-c", f'cd {workdir} && exec "$@"', "sh", *argv]
        return [*_unshare(), "sh", "-e", "-c", "\n".join(lines), "sh", *argv]

    def _path(self, name: str) -> Path:
        """Return where an absolute path of the stage is on this machine."""
        return self.root / name.lstrip("/")


def is_supported() -> bool:
    """Return whether this account may mount folders."""
    command = [*_unshare(), "mount", "--bind", "/proc", "/proc"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def _unshare() -> list[str]:
    mode = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    return ["unshare", *mode]


def build(dockerfile: Path, context: Path, folder: Path, **arguments: str) -> Stage:
    """Carry out all steps in `folder`, with these build arguments; return the last stage.

    Raises DockerfileError.
    """
    return _Builder(context, folder, _ignored(dockerfile), arguments).build(dockerfile)


class _Builder:
    def __init__(
        self,
        context: Path,
        folder: Path,
        ignored: list[tuple[bool, str]],
        arguments: dict[str, str],
    ) -> None:
        self._context = context
        self._folder = folder
        self._ignored = ignored
        self._build_arguments = arguments
        self._stages: dict[str, Stage] = {}
        self._global_arguments = {"TARGETOS": "linux", "TARGETARCH": "", "BUILDPLATFORM": ""}
        self._stage: Stage | None = None

    def build(self, dockerfile: Path) -> Stage:
        for instruction, text in _instructions(dockerfile.read_text(encoding="utf-8")):
            handler = getattr(self, f"_{instruction.lower()}", None)
            if handler is None:
                raise DockerfileError(f"unknown instruction {instruction}")
            handler(text)
        if self._stage is None:
            raise DockerfileError("no FROM")
        return self._stage

    @property
    def _current(self) -> Stage:
        if self._stage is None:
            raise DockerfileError("an instruction before FROM")
        return self._stage

    def _expand(self, text: str) -> str:
        known = self._global_arguments
        if self._stage:
            known = self._stage.arguments | self._stage.environ
        return _VARIABLE.sub(lambda match: known.get(match[1] or match[2], ""), text)

    def _from(self, text: str) -> None:
        options, words = _options(text)
        if options.keys() - {"platform"}:
            raise DockerfileError(f"unknown option: FROM {text}")
        self._stage = None
        base = self._expand(words[0])
        name = words[2] if len(words) == 3 else "image"
        root = self._folder / name
        root.mkdir(parents=True)
        # The account of the image must be able to enter it.
        root.chmod(0o755)
        if _base_mounts(base):
            for link in ("bin", "lib", "lib64", "sbin"):
                (root / link).symlink_to(f"usr/{link}")
        (root / "tmp").mkdir()
        self._stage = self._stages[name] = Stage(base, root)
        if base.startswith("golang:"):
            self._stage.environ["GOPATH"] = "/go"

    def _arg(self, text: str) -> None:
        name, _, value = text.partition("=")
        target = self._stage.arguments if self._stage else self._global_arguments
        default = self._expand(value) or self._global_arguments.get(name, "")
        target[name] = self._build_arguments.get(name, default)

    def _env(self, text: str) -> None:
        self._current.environ.update(self._pairs(text))

    def _label(self, text: str) -> None:
        self._current.labels.update(self._pairs(text))

    def _pairs(self, text: str) -> Iterator[tuple[str, str]]:
        for word in shlex.split(text):
            name, _, value = word.partition("=")
            yield name, self._expand(value)

    def _workdir(self, text: str) -> None:
        self._current.workdir = text
        (self._current.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _user(self, text: str) -> None:
        self._current.user = text

    def _expose(self, text: str) -> None:
        int(text)

    def _entrypoint(self, text: str) -> None:
        self._current.entrypoint = json.loads(text)

    def _cmd(self, text: str) -> None:
        self._current.command = json.loads(text)

    def _healthcheck(self, text: str) -> None:
        self._current.healthcheck = json.loads(text.partition(" CMD ")[2])

    def _copy(self, text: str) -> None:
        options, words = _options(self._expand(text))
        *sources, target = words
        if options.keys() - {"from"}:
            raise DockerfileError(f"unknown option: COPY {text}")
        stage = self._current
        root = self._stages[options["from"]].root if "from" in options else self._context
        destination = stage.root / stage.workdir.lstrip("/") / target
        if target.startswith("/"):
            destination = stage.root / target.lstrip("/")
        for source in sources:
            path = root / source.lstrip("/")
            if path.is_dir():
                ignore = None if "from" in options else self._ignore
                shutil.copytree(path, destination, symlinks=True, ignore=ignore, dirs_exist_ok=True)
                continue
            if not path.exists() or ("from" not in options and self._is_ignored(path)):
                raise DockerfileError(f"COPY {source}: not in the build context")
            into_folder = target.endswith("/") or target == "."
            to = destination / path.name if into_folder else destination
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to, follow_symlinks=False)

    def _ignore(self, folder: str, names: list[str]) -> set[str]:
        return {name for name in names if self._is_ignored(Path(folder) / name)}

    def _is_ignored(self, path: Path) -> bool:
        relative = path.relative_to(self._context)
        ignored = False
        for ignores, pattern in self._ignored:
            if _matches(relative, pattern):
                ignored = ignores
        return ignored

    def _run(self, text: str) -> None:
        stage = self._current
        caches = []
        while match := re.match(r"--mount=type=cache,target=(\S+)\s+", text):
            caches.append(match[1])
            text = text[match.end() :]
        if text.startswith("--"):
            raise DockerfileError(f"unknown option: RUN {text}")
        settings = {k: v for k, v in os.environ.items() if _INSTALLER_SETTING.fullmatch(k)}
        environ = {"HOME": "/root"} | settings | stage.arguments | stage.environ
        command = stage.command_line(["/bin/sh", "-c", text], caches)
        result = subprocess.run(  # noqa: S603
            command, env=environ, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise DockerfileError(f"RUN {text}\n{result.stdout}{result.stderr}")


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            yield instruction, rest.strip()


def _options(text: str) -> tuple[dict[str, str], list[str]]:
    words = text.split()
    options = dict(w[2:].split("=", 1) for w in words if w.startswith("--"))
    return options, [w for w in words if not w.startswith("--")]


def _ignored(dockerfile: Path) -> list[tuple[bool, str]]:
    """Return the patterns of .dockerignore, each with whether it ignores or includes."""
    text = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text(encoding="utf-8")
    return [(not line.startswith("!"), line.lstrip("!")) for line in text.split()]


def _matches(path: Path, pattern: str) -> bool:
    """Return whether a pattern of .dockerignore names `path` or a folder above it."""
    if pattern.startswith("**/"):
        return pattern[3:] in path.parts
    names = [str(path), *map(str, path.parents)]
    return pattern in names or (pattern == "*" and path != Path())


def _base_mounts(base: str) -> list[tuple[str, str]]:
    """Return the folders of this machine that stand for a base image, and where they are in it."""
    if base.startswith("gcr.io/distroless/static"):
        return []
    mounts = [("/usr", "/usr"), ("/etc", "/etc")]
    if base.startswith("python:"):
        # The interpreter may look for its library at the path that it was built for.
        return [*mounts, (sys.base_prefix, "/usr/local"), (sys.base_prefix, sys.base_prefix)]
    if base.startswith("golang:"):
        return [*mounts, (_go_env("GOROOT"), "/usr/local/go")]
    raise DockerfileError(f"unknown base image {base}")


def _host_cache(target: str) -> str:
    """Return the folder of this machine that a cache folder stands for."""
    match target:
        case "/go/pkg/mod":
            return _go_env("GOMODCACHE")
        case "/root/.cache/go-build":
            return _go_env("GOCACHE")
        case "/root/.cache/pip":
            folder = Path.home() / ".cache" / "pip"
            folder.mkdir(parents=True, exist_ok=True)
            return str(folder)
    raise DockerfileError(f"unknown cache folder {target}")


def _go_env(name: str) -> str:
    return subprocess.check_output(["go", "env", name], text=True).strip()  # noqa: S603, S607


def main() -> None:
    """Build the Dockerfile of the command line and print the size of what it adds."""
    dockerfile, folder = map(Path, sys.argv[1:])
    stage = build(dockerfile, Path.cwd(), folder.absolute())
    print(f"{stage.size() / 1e6:.1f} MB in {stage.root}")


if __name__ == "__main__":
    main()
