"""Trust: what a file that was found may not do, how it is trusted, and when no longer."""

from __future__ import annotations

import marshal
import os
import stat
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path

import pytest

from moa.config import load, read
from moa.config.endpoints import Endpoints
from moa.config.file import set_in_graph, write_endpoint
from moa.config.loading import load_graph
from moa.config.tables import AdapterConfig, AddressConfig, EngineConfig, ServerConfig
from moa.config.trust import entries, is_trusted, needs, revoke, trust
from moa.core.errors import ConfigError
from moa.vllm.settings import VLLMConfig

VLLM = '[endpoints.a]\ntier = "slm"\nmodel = "m"\nserve = "vllm"\n'
LARGE = '[endpoints.large]\ntier = "llm"\nmodel = "gpt-5-mini"\n'
CODE = '[graphs.support]\nguards = ["./evil.py:x"]\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It is in a folder of its own, beside things that are none of its business."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "secret").write_text("s")
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return here


def written(text: str) -> Path:
    file = Path("moa.toml")
    file.write_text(text)
    return file


def endpoint(**keys: object) -> str:
    said = "".join(f"{key} = {str(value)!r}\n" for key, value in keys.items())
    return f'[endpoints.a]\ntier = "slm"\nmodel = "m"\n{said}'


def graph(line: str) -> str:
    return f"[graphs.support]\n{line}\n"


STRANGE = (
    "https://evil.test/v1",
    "https://api.openai.com@evil.test/v1",
    "https://evil.test\\@api.openai.com/v1",
    "https://api.openai.com.evil.test/v1",
    "https://api.openai.com./v1",
    "https://api.openai.com:8443/v1",
    "https://api.openai.com\t.evil.test/v1",
    "http://api.openai.com/v1",
    "http://10.0.0.7:8000/v1",
    "http://2130706433/v1",
    "http://127.0.0.1.evil.test/v1",
    "http://127.0.0.1\\@evil.test/v1",
    "http://127.0.0.1@evil.test/v1",
    "http://[::2]:8000/v1",
    "http://[::1/v1",
)
KEYS = (
    endpoint(base_url="http://127.0.0.1:1/v1", api_key_env="OPENAI_API_KEY"),
    endpoint(base_url="https://api.mistral.ai/v1", api_key_env="OPENAI_API_KEY"),
    endpoint(base_url="https://evil.test/v1", api_key_env="EVIL_API_KEY"),
    LARGE + 'api_key_env = "gemini_api_key"\n',
)
REFUSED = {
    CODE: r"\[graphs.support\] guards: runs the code of '(./)?evil.py'",
    graph('guards = { after = ["pii", "a.py:b"] }'): r"\[graphs.support.guards\] after: runs",
    '[graphs.research.answerer]\nx = [{ y = "a.py:" }]\n': r"answerer.x\] y: runs the code",
    '[graphs."a.py:b"]\nx = 1\n': "runs the code",
    VLLM + '[endpoints.a.vllm]\npython = "sub/bin"\n': r"a.vllm\] python: runs the program",
    VLLM + '[endpoints.a.vllm]\nargs = ["--middleware=x.y"]\n': r"a.vllm\] args: .*middleware",
    VLLM + '[endpoints.a.vllm]\nargs = ["--tensor-parallel-size", "2", "--config", "x"]\n': "args",
    VLLM + '[endpoints.a.vllm.env]\nVLLM_CPU_KVCACHE_SPACE = "4 x"\n': "KVCACHE",
    VLLM + '[endpoints.a.vllm.env]\nLD_PRELOAD = "x.so"\n': r"a.vllm.env\] LD_PRELOAD: .*x.so",
    VLLM + '[endpoints.a.vllm.lora]\nx = "../other"\n': r"a.vllm.lora\] x: loads '../other'",
    VLLM.replace('"m"', '"../other"'): r"\[endpoints.a\] model: loads",
    VLLM.replace('"m"', '"~/model"'): r"\[endpoints.a\] model: loads",
    VLLM.replace("vllm", "llama.cpp").replace('"m"', '"link/secret.gguf"'): "model: loads",
    endpoint(cache="../x"): r"\[endpoints.a\] cache: .*'../x'",
    endpoint(cache="/x"): "cache",
    endpoint(cache="link"): "cache",
    endpoint(cache="gone"): "cache",
    endpoint(cache="folder/../../x"): "cache",
    graph('x = "../other"'): r"\[graphs.support\] x: may reach '../other'",
    graph('x = "/etc/hosts"'): "may reach",
    graph('x = ["~/x"]'): "may reach",
    graph('x = "~nobody-here/../../x"'): "may reach",
    graph('x = "http://../../../x"'): "may reach",
    graph(f'x = "{"a" * 300}/../../x"'): "may reach",
    graph('x = "holder"'): "may reach",
    graph('x = "link/../secret"'): "may reach",
    graph('"../x" = 1'): "may reach",
    graph(f'{"x." * 2000}x = "/x"'): "may reach",
    graph('store = "postgresql://me:hush@db.test/x"'): "keeps texts at postgresql://db.test$",
    graph('store = "postgres://127.0.0.1,db.test/x"'): "keeps texts at",
    graph('store = "postgres://localhost/x?host=db.test"'): "behind its '[?]'",
    graph('store = "POSTGRES://%6cocalhost.test/x"'): "keeps texts at",
    **dict.fromkeys(
        [endpoint(base_url=url) for url in STRANGE], r"\[endpoints.a\] base_url: sends texts to"
    ),
    LARGE + 'base_url = ["https://api.openai.com/v1", "https://evil.test/v1"]\n': "texts to .*evil",
    LARGE + 'base_url = ["https://api.openai.com/v1", "http://127.0.0.1:1/v1"]\n': (
        r"base_url: sends the variable OPENAI_API_KEY to http://127.0.0.1:1$"
    ),
    **dict.fromkeys(KEYS, r"\[endpoints.\w+\] api_key_env: sends the variable"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_a_found_file_may_not_do_is_refused_by_its_key(
    text: str, said: str, folder: Path
) -> None:
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("../other")
    (folder / "gone").symlink_to("../not there")
    (folder / "holder").mkdir()
    (folder / "holder" / "passages.sqlite").symlink_to("../../other/secret")
    file = written(text)
    with pytest.raises(ConfigError, match=rf"(?m){said}") as caught:
        load()
    assert "moa trust moa.toml" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert load(file)


@pytest.mark.parametrize(
    "text",
    [
        LARGE,
        LARGE + 'api_key_env = "MY_KEY"\n',
        LARGE + 'base_url = "HTTPS://API.OpenAI.com:443/v2"\napi_key_env = "OPENAI_API_KEY"\n',
        endpoint(base_url="http://127.0.0.1:8000/v1", api_key_env="MY_KEY", cache="a.sqlite"),
        endpoint(base_url="http://[::1]:8000/v1", cache="memory"),
        endpoint(base_url="http://localhost:8000/v1"),
        VLLM.replace('"m"', '"Qwen/Qwen3-0.6B"') + '[endpoints.a.vllm]\nlora = { x = "x" }\n',
        '[endpoints.a]\ntier = "llm"\nserve = "llama.cpp"\nmodel = "hf:o/r/f.gguf"\n',
        VLLM + '[endpoints.a.vllm]\nargs = ["--tensor-parallel-size", "2"]\n'
        '[endpoints.a.vllm.env]\nVLLM_CPU_KVCACHE_SPACE = "4"\n',
        graph('company = "Northwind: see https://example.com/help or ask.py"\ntone = "and/or"'),
        graph('[[graphs.recommend.catalogue]]\nurl = "https://shop.example/1"'),
        graph('[graphs.rag]\ndocuments = ["docs", "."]\nindex = "x/y.index"\nfilter = "f.json"'),
        '[graphs.chat]\nstore = "postgresql:///chats"\n',
        '[graphs.chat]\nstore = "postgresql://me@localhost:5432/chats"\n',
    ],
)
def test_what_is_harmless_needs_no_trust(text: str) -> None:
    written(text)
    assert load()


def test_somebody_has_thought_about_every_key() -> None:
    from moa.config import trust as rules

    kinds = (AddressConfig, ServerConfig, AdapterConfig, EngineConfig)
    keys = {key for kind in kinds for key in kind.model_fields}
    assert keys == rules._ENDPOINT  # pyright: ignore[reportPrivateUsage]
    assert {*VLLMConfig.model_fields} == rules._SERVER  # pyright: ignore[reportPrivateUsage]


def test_a_variable_that_names_the_file_or_says_the_key_is_the_users_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(endpoint(base_url="https://evil.test/v1"))
    monkeypatch.setenv("MOA_ENDPOINTS__A__BASE_URL", "https://gateway.test/v1")
    assert load().endpoints["a"].urls == ("https://gateway.test/v1",)
    written(endpoint(api_key_env="OPENAI_API_KEY"))
    with pytest.raises(ConfigError, match=r"gateway\.test"):
        load()
    monkeypatch.setenv("MOA_CONFIG", str(file))
    assert load()


def test_a_variable_of_a_server_does_not_vouch_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written(VLLM + '[endpoints.a.vllm]\nenv = { LD_PRELOAD = "x.so" }\n')
    monkeypatch.setenv("MOA_ENDPOINTS__A__VLLM__ENV", '{"B": "c"}')
    with pytest.raises(ConfigError, match="LD_PRELOAD"):
        load()


def test_a_program_finds_its_file_under_the_same_rule_and_may_name_it() -> None:
    written(CODE)
    with pytest.raises(ConfigError, match="moa trust"):
        Endpoints()
    assert Endpoints("moa.toml").config.graphs


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("# " + "x" * (2 << 20), id="a long file"),
        pytest.param(f"{VLLM}[endpoints.a.vllm]\nreplicas = 1000000000\n", id="many servers"),
    ],
)
def test_what_would_take_minutes_to_look_at_is_refused(text: str) -> None:
    file = written(text)
    for path in (None, file):
        with pytest.raises(ConfigError):
            load(path)
    with pytest.raises(ConfigError):
        write_endpoint(None, "small", SERVED)


def test_a_key_cannot_look_like_another_line() -> None:
    written('[graphs.support]\n"x\\n  harmless\\u202e" = "../y"\n')
    with pytest.raises(ConfigError) as caught:
        load()
    assert not any(line.startswith("  harmless") for line in str(caught.value).splitlines())
    assert "\u202e" not in str(caught.value)


def agreed(file: Path) -> None:
    trust(*read(file, variables=False))


def test_a_trusted_file_is_loaded_until_it_changes() -> None:
    file = written(CODE)
    agreed(file)
    assert load().graphs
    assert [(one.file, one.state) for one in entries()] == [(file.resolve(), "trusted")]
    written(CODE + "\n")
    with pytest.raises(ConfigError):
        load()
    assert [one.state for one in entries()] == ["changed since it was trusted"]
    written(CODE)
    assert load().graphs
    assert revoke(file)
    with pytest.raises(ConfigError, match="moa trust"):
        load()


@pytest.mark.parametrize(
    ("text", "program"),
    [
        pytest.param(CODE, "evil.py", id="code"),
        pytest.param(VLLM + '[endpoints.a.vllm]\npython = "bin"\n', "bin", id="a program"),
    ],
)
def test_a_program_that_changed_is_trusted_no_longer(text: str, program: str) -> None:
    Path(program).write_text("x = 1")
    file = written(text)
    agreed(file)
    assert load()
    Path(program).write_text("x = 2")
    with pytest.raises(ConfigError):
        load()
    assert not is_trusted(file)


IMPORTS = {
    "evil.py": "import helper\nimport json\nx = 1",
    "helper.py": "def later():\n    from parts.one import y\n",
    "parts/__init__.py": "",
    "parts/one.py": "from . import two\nfrom ..parts.three import *\n",
    "parts/two.py": "",
    "parts/three.py": "import four.five as five\nfrom six import *\n",
    "four/five.py": "",
    "six/__init__.py": "__all__ = ['seven', 'eight']",
    "six/seven.py": "",
    "six/eight/__init__.py": "from . import nine",
    "six/eight/nine.py": "",
}


def imported(**further: str) -> Path:
    """Write a program and what it imports, each of which would leave a mark if it ran."""
    for name, code in {**IMPORTS, **further}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(f"open('executed', 'w').close()\n{code}")
    return written(CODE)


@pytest.mark.parametrize("name", [name for name in IMPORTS if name != "evil.py"])
@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_module_that_a_trusted_program_imports_is_trusted_no_longer_once_it_changed(
    name: str, change: str
) -> None:
    file = imported()
    agreed(file)
    assert load().graphs
    Path("unrelated.py").write_text("")
    assert is_trusted(file)
    if change == "gone":
        Path(name).unlink()
    else:
        Path(name).write_text("z = 2")
    with pytest.raises(ConfigError):
        load()
    assert [one.state for one in entries()] == ["changed since it was trusted"]
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "name", ["json.py", "helper/__init__.py", "helper.abi3.so", "parts/two/__init__.pyc"]
)
def test_a_new_file_that_would_be_imported_in_the_place_of_another_ends_trust(name: str) -> None:
    file = imported()
    agreed(file)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("")
    assert not is_trusted(file)


def stored(**sources: str) -> None:
    """Write programs, and for each other bytecode, which Python compares with no source."""
    for stem, source in sources.items():
        file = Path(stem.replace("__", "/", 1)).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        other = compile("raise SystemExit('what was stored has run')", file.name, "exec")
        cache = Path(cache_from_source(str(file)))
        cache.parent.mkdir(exist_ok=True)
        cache.write_bytes(MAGIC_NUMBER + b"\1\0\0\0" + b"12345678" + marshal.dumps(other))


def shouting(helper: str) -> str:
    return (
        f"import {helper}\nfrom moa import RunContext\n\n\n"
        f"async def shout(text: str, context: RunContext) -> str:\n    return {helper}.MARK\n"
    )


def test_a_program_and_its_imports_run_by_their_sources_whatever_python_has_stored() -> None:
    stored(stored_program=shouting("stored_helper"), stored_helper="MARK = '!'\n")
    assert load_graph("stored_program.py:shout", Endpoints.of()).name == "shout"


def test_a_module_of_the_projects_folder_runs_by_its_source_for_a_program_in_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [str(folder), *sys.path])
    stored(code__program=shouting("stored_shared"), stored_shared="MARK = '!'\n")
    assert load_graph("code/program.py:shout", Endpoints.of()).name == "shout"


@pytest.mark.parametrize("spelling", ["", "{}/", "{}/code/..", "../link", "{}/../link"])
def test_a_module_runs_by_its_source_however_its_folder_is_spelled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    folder.with_name("link").symlink_to(folder)
    monkeypatch.setattr("sys.path", [spelling.format(folder), str(folder), *sys.path])
    for name in ("spelled", "spelled.inner"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    stored(program=shouting("spelled"), code__other="", spelled__inner="MARK = '!'\n")
    stored(spelled____init__="from spelled.inner import MARK\n")
    assert load_graph("program.py:shout", Endpoints.of()).name == "shout"


def test_a_module_of_the_projects_folder_is_trusted_with_a_program_in_another() -> None:
    Path("code").mkdir()
    Path("code/evil.py").write_text("import shared\nx = 1")
    Path("shared.py").write_text("")
    file = written(CODE.replace("evil.py", "code/evil.py"))
    agreed(file)
    Path("shared.py").write_text("z = 2")
    assert not is_trusted(file)


@pytest.mark.parametrize(
    "code",
    ["import evil, helper, nowhere", "(" * 5000, "\0", "from ........ import x", "é = '\\d'"],
)
def test_a_program_that_imports_itself_or_is_none_can_be_trusted(code: str) -> None:
    file = imported(**{"helper.py": code})
    agreed(file)
    assert is_trusted(file)


def test_what_is_trusted_is_kept_for_its_user_alone(tmp_path: Path) -> None:
    agreed(written(CODE))
    kept = next((tmp_path / "data").rglob("*.json"))
    assert stat.S_IMODE(os.stat(kept).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(kept.parent).st_mode) == 0o700
    kept.write_text("{}")
    with pytest.raises(ConfigError, match="moa trust"):
        load()


def test_a_link_to_a_trusted_file_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(CODE).resolve()
    agreed(file)
    (tmp_path / "other" / "moa.toml").symlink_to(file)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ConfigError, match="moa trust"):
        load()


SERVED = {"tier": "slm", "model": "m", "serve": "vllm", "vllm": {"env": {"A": "b"}}}


@pytest.mark.parametrize("before", [None, LARGE, CODE], ids=["new", "harmless", "trusted"])
def test_what_moa_writes_needs_no_trust_anew(before: str | None) -> None:
    if before:
        written(before)
    if before == CODE:
        agreed(Path("moa.toml"))
    write_endpoint(None, "small", SERVED)
    assert load().served_endpoints["small"].vllm.env
    set_in_graph(None, "cascade", {"calibration": "../made.json"})
    assert load().graphs["cascade"]


@pytest.mark.parametrize("path", [None, "moa.toml"], ids=["found", "named"])
@pytest.mark.parametrize("text", [CODE, '[graphs.cascade]\nlearn = "../x"\n'])
def test_what_moa_adds_makes_no_file_trusted(text: str, path: str | None) -> None:
    written(text)
    write_endpoint(path, "small", SERVED)
    set_in_graph(path, "cascade", {"calibration": "../made.json"})
    with pytest.raises(ConfigError, match="moa trust"):
        load()


def test_what_a_variable_hides_is_not_trusted_with_what_moa_adds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written(endpoint(base_url="https://evil.test/v1"))
    with monkeypatch.context() as shell:
        shell.setenv("MOA_ENDPOINTS__A__BASE_URL", "http://127.0.0.1:1/v1")
        write_endpoint(None, "small", SERVED)
    with pytest.raises(ConfigError, match=r"evil\.test"):
        load()


def test_what_needs_trust_is_listed_without_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = written(endpoint(base_url="https://evil.test/v1"))
    monkeypatch.setenv("MOA_ENDPOINTS__A__BASE_URL", "http://127.0.0.1:1/v1")
    config, _ = read(file, variables=False)
    assert [str(need) for need in needs(config)] == [
        "[endpoints.a] base_url: sends texts to https://evil.test"
    ]
