"""The app is found as the design says, and each way in which it is not has its own sentence."""

import pytest

from rqueue.cli.lookup import NoApp, bare, find_app, find_app_or_bare, find_client, find_keeper
from rqueue.config import Results
from rqueue.errors import ConfigError

APP = "from rqueue import RQueue\napp = RQueue('redis://from-{name}:1/0', namespace='{name}')\n"


def write(directory, name, text=APP):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace("{name}", path.stem))


def test_a_name_goes_before_everything(directory):
    for name in ("named.py", "configured.py", "tasks.py"):
        write(directory, name)
    write(directory, "pyproject.toml", "[tool.rqueue]\napp = 'configured:app'\n")
    assert find_app("named:app").keys.namespace == "named"


def test_pyproject_goes_before_the_usual_files(directory):
    write(directory, "configured.py")
    write(directory, "tasks.py")
    write(directory, "pyproject.toml", "[tool.rqueue]\napp = 'configured:app'\n")
    assert find_app(None).keys.namespace == "configured"


@pytest.mark.parametrize(
    ("files", "found"),
    [(("tasks", "app", "main"), "tasks"), (("app", "main"), "app"), (("main",), "main")],
)
def test_the_usual_files_in_their_order(directory, files, found):
    for name in files:
        write(directory, f"{name}.py")
    assert find_app(None).keys.namespace == found


def test_a_usual_file_without_an_app_is_passed_over(directory):
    write(directory, "tasks.py", "x = 1\n")
    write(directory, "main.py")
    write(directory, "pyproject.toml", "[tool.other]\nx = 1\n")
    assert find_app(None).keys.namespace == "main"


def test_a_module_in_a_package_and_an_attribute_of_an_attribute(directory):
    write(directory, "shop/__init__.py", "")
    write(directory, "shop/queueing.py", APP + "class settings:\n    app = app\n")
    assert find_app("shop.queueing:settings.app").keys.namespace == "queueing"
    assert find_app("shop.queueing").keys.namespace == "queueing"


def test_one_app_under_two_names_is_one(directory):
    write(directory, "tasks.py", APP + "celery = app\n")
    assert find_app(None).keys.namespace == "tasks"


def test_url_and_namespace_take_the_place_of_the_apps_own(directory):
    write(directory, "tasks.py")
    app = find_app(None, "redis://elsewhere:1/0", "mine")
    assert (app.endpoint.shown, app.keys.namespace) == ("redis://elsewhere:1/0", "mine")


def test_where_nobody_says_where_redis_is_the_environment_does(directory, monkeypatch):
    """Breaks when commands that load no app look elsewhere than apps do, or name a variable that did not count."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://celerys:1/0")
    assert bare(None, None).endpoint.shown == "redis://celerys:1/0"
    (directory / "tasks.py").write_text("from rqueue import RQueue\napp = RQueue()\n")
    app = find_app(None)
    assert (app.endpoint.shown, app.variables) == ("redis://celerys:1/0", ("CELERY_BROKER_URL",))
    app = find_app(None, "redis://elsewhere:1/0")
    assert (app.endpoint.shown, app.variables) == ("redis://elsewhere:1/0", ())


ERRORS = {
    "nothing": ({}, None, "no app: give -A module:attribute, or RQUEUE_APP"),
    "no module": ({}, "absent:app", "there is no module 'absent' in "),
    "no parent": ({}, "absent.tasks:app", "there is no module 'absent' in "),
    "not a name": ({}, "./tasks.py", "write it as 'module:attribute'"),
    "no attribute": ({"tasks.py": APP}, "tasks:other", "'tasks' has no 'other'; its apps are: app"),
    "no app in it": ({"tasks.py": "x = 1"}, "tasks", "there is no RQueue in the module 'tasks'"),
    "another type": ({"tasks.py": "app = 'celery'"}, "tasks:app", "it is a str, and an RQueue is needed"),
    "two apps": ({"tasks.py": APP + "b = RQueue()"}, None, "tasks holds 2 apps (app, b): say which, as -A tasks:app"),
    "raises": ({"tasks.py": "x = 1\n1 / 0"}, None, "ZeroDivisionError: division by zero ("),
    "exits": ({"tasks.py": "raise SystemExit(3)"}, None, "importing it failed: SystemExit: 3"),
    "syntax": ({"tasks.py": "def"}, None, "importing it failed: SyntaxError: "),
    "a missing import": ({"tasks.py": "import absent_one"}, None, "No module named 'absent_one'"),
    "a wrong option": ({"tasks.py": "from rqueue import Queue\nQueue('a b')"}, None, "ConfigError: queue 'a b'"),
    "bad toml": ({"pyproject.toml": "="}, None, "pyproject.toml cannot be read"),
    "not a string": ({"pyproject.toml": "[tool.rqueue]\napp = 1"}, None, "app is 1; write it as 'module:attribute'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_each_failure_has_its_sentence(directory, case):
    files, name, text = ERRORS[case]
    for file, content in files.items():
        write(directory, file, content)
    with pytest.raises(ConfigError) as caught:
        find_app(name)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_an_import_failed_is_said(directory):
    write(directory, "tasks.py", "x = 1\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"tasks\.py:2\)"):
        find_app(None)


def test_only_a_missing_app_is_no_app(directory):
    with pytest.raises(NoApp):
        find_app(None)
    assert find_app_or_bare(None, None, None).endpoint.shown == "redis://localhost:6379/0"
    write(directory, "tasks.py", "1 / 0")
    with pytest.raises(ConfigError):
        find_app_or_bare(None, None, None)


def test_who_only_looks_and_gives_a_url_loads_no_app(directory):
    write(directory, "tasks.py", "1 / 0")
    client = find_client(None, "redis://elsewhere:1/0", None)
    assert (client.endpoint.shown, client.keys.namespace) == ("redis://elsewhere:1/0", "rqueue")


def test_who_only_looks_and_names_an_app_gets_its_namespace(directory):
    write(directory, "named.py")
    client = find_client("named:app", "redis://elsewhere:1/0", None)
    assert (client.endpoint.shown, client.keys.namespace) == ("redis://elsewhere:1/0", "named")


def test_whose_database_is_asked(directory):
    (directory / "kept.py").write_text(
        "from rqueue import Results, RQueue\napp = RQueue(results=Results('sqlite:///app.db', keep_failures=True))\n"
    )
    (directory / "unkept.py").write_text("from rqueue import RQueue\napp = RQueue()\n")
    for name in (None, "unkept:app"):
        with pytest.raises(ConfigError, match="--results"):
            find_keeper(name, None)
    assert find_keeper("kept:app", None).config.results == Results("sqlite:///app.db", keep_failures=True)
    assert find_keeper("kept:app", "sqlite:///other.db").config.results == Results(
        "sqlite:///other.db", keep_failures=True
    )
    assert find_keeper("unkept:app", "sqlite:///other.db").config.results == Results("sqlite:///other.db")


def test_a_database_by_its_url_needs_no_app(directory):
    """Breaks when the app is loaded though nobody named it: its module may need what is not here."""
    (directory / "tasks.py").write_text("raise RuntimeError('loaded')\n")
    assert find_keeper(None, "sqlite:///other.db").config.results == Results("sqlite:///other.db")
