"""The control API over real HTTP: every call, and every refusal as JSON with the right status."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, write_snapshot
from served_controller import Served

from venice import cli
from venice.clock import ManualClock, SystemClock
from venice.control.remote import ControllerClient
from venice.errors import Conflict, Incompatible, InvalidRequest, NotFound, Unavailable
from venice.model import HybridConfig, StoreConfig, VersionStatus
from venice.rules.lifecycle import Role

CLOCK = SystemClock()


@pytest.fixture
def served(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Served]:
    running = Served(tmp_path, free_port())
    yield running
    running.close()


def test_hybrid_over_http(served: Served) -> None:
    client = served.client
    hybrid = HybridConfig(rewind_s=60, lag_records_max=0)
    assert client.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, hybrid=hybrid).hybrid == hybrid
    assert client.update_store("s", owner="me").hybrid == hybrid
    assert client.update_store("s", hybrid=None, versions_preserved=3).hybrid is None
    assert client.update_store("s", hybrid=HybridConfig()).hybrid == HybridConfig()
    assert client.get_version("s", client.create_version("s", push_id="p").number).version.hybrid == HybridConfig()
    status, made = served.call("POST", "/api/v1/stores", b'{"name": "t", "key_schema": "\\"long\\"", "hybrid": {"rewind_s": 9}}')
    assert (status, made["hybrid"], made["real_time_partitions"]) == (201, {"rewind_s": 9, "lag_records_max": 1000}, 8)
    assert served.call("PATCH", "/api/v1/stores/t", b'{"owner": "x"}')[1]["hybrid"] is not None
    assert served.call("PATCH", "/api/v1/stores/t", b'{"hybrid": null}')[1]["hybrid"] is None
    status, error = served.call("PATCH", "/api/v1/stores/t", b'{"hybrid": {"rewind": 9}}')
    assert (status, error["kind"]) == (400, "invalid_request")
    assert "hybrid.rewind" in error["message"]
    status, error = served.call("PATCH", "/api/v1/stores/t", b'{"hybrid": {"rewind_s": -9}}')
    assert (status, error["message"], error["hint"]) == (400, "rewind_s cannot be -9", "use 0 to 316224000")


def test_hybrid_by_command(served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VENICE_CONTROLLER_URL", served.url)

    def venice(*arguments: str) -> tuple[int, str]:
        code = cli.run(["store", *arguments])
        out, err = capsys.readouterr()
        return code, out + err

    def hybrid() -> HybridConfig | None:
        return served.controller.get_store("s").hybrid

    create = ("create", "s", "--key", "long", "--value", "string")
    code, said = venice(*create, "--rewind", "60")
    assert code != 0
    assert "add --hybrid" in said
    assert venice(*create, "--hybrid", "--rewind", "60")[0] == 0
    assert hybrid() == HybridConfig(rewind_s=60)
    assert venice("update", "s", "--lag-records", "5")[0] == 0
    assert hybrid() == HybridConfig(rewind_s=60, lag_records_max=5)
    assert "hybrid: a push replays the last 60 s of 8 real-time partitions" in venice("describe", "s")[1]
    assert venice("update", "s", "--owner", "me")[0] == 0
    assert hybrid() is not None
    assert venice("update", "s", "--no-hybrid")[0] == 0
    assert hybrid() is None
    assert venice("update", "s", "--rewind", "5")[0] != 0
    assert venice("update", "s", "--hybrid")[0] == 0
    assert hybrid() == HybridConfig()
    assert venice("update", "s")[0] != 0


def test_a_whole_push_over_http(served: Served) -> None:
    client = served.client
    config = StoreConfig(partition_count=2)
    store = client.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, owner="me", config=config)
    assert store == client.get_store("s") == client.list_stores()[0] == served.controller.get_store("s")
    assert store.config == config
    assert [schema.id for schema in client.list_schemas("s")] == [1]
    assert client.add_schema("s", VALUE_SCHEMA).id == 1
    workers = Workers(served.log, CLOCK, "a-0")
    workers.report(served.controller)

    for number in (1, 2):
        grant = client.create_version("s", push_id=f"p{number}")
        assert (grant.number, grant.existing, grant.status) == (number, False, VersionStatus.STARTED)
        assert client.heartbeat("s", number).role is Role.FUTURE
        ref, manifest = write_snapshot(grant)
        sealed = client.seal("s", number, uri=ref.uri, sha256=ref.sha256, rows=20, bytes_=manifest.bytes, value_schema_id=1)
        assert sealed.version.snapshot == ref
        deadline = time.monotonic() + 20
        while (info := client.get_version("s", number)).status != "ONLINE":
            workers.report(served.controller)
            assert time.monotonic() < deadline, info
            time.sleep(0.01)  # its threads swap, on the clock of the machine
        assert (info.ready_partitions, info.role, info.placed) == (2, Role.CURRENT, True)

    assert client.rollback("s").current == 1
    assert client.roll_forward("s").current == 2
    assert [info.version.number for info in client.list_versions("s")] == [1, 2]
    third = client.create_version("s", push_id="p3", deferred_swap=True)
    assert client.fail("s", third.number, "broken pipe").version.reason == "broken pipe"
    fourth = client.create_version("s", push_id="p4")
    assert client.kill("s", fourth.number, "no").status == "KILLED"
    assert client.update_store("s", owner="you", versions_preserved=4).config.versions_preserved == 4
    (node,) = client.nodes()
    assert (node.node.id, node.workers[0].worker.id, node.workers[0].live) == ("a", "a-0", True)
    health = client.health()
    assert (health.ok, health.term, health.stores, health.workers_live, health.problems) == (True, 1, 1, 1, ())
    client.delete_store("s")
    assert client.list_stores() == ()


def test_errors_come_back_as_they_were_raised(served: Served) -> None:
    client = served.client
    client.create_store("flights", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    with pytest.raises(NotFound) as unknown:
        client.get_store("flihgts")
    assert unknown.value.hint.startswith("did you mean 'flights'?")
    with pytest.raises(Conflict, match="exists already"):
        client.create_store("flights", key_schema=KEY_SCHEMA)
    with pytest.raises(Incompatible, match="schema 1"):
        client.add_schema("flights", '"long"')
    with pytest.raises(InvalidRequest, match="partition_count cannot be 0"):
        client.update_store("flights", partition_count=0)
    client.create_version("flights", push_id="p")
    with pytest.raises(Conflict) as second:
        client.create_version("flights", push_id="q")
    assert second.value.data["push_id"] == "p"
    with pytest.raises(NotFound, match="version 7"):
        client.get_version("flights", 7)
    with pytest.raises(NotFound, match=r"no store 'a\?b ü'"):
        client.get_store("a?b ü")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind", "message"),
    [
        ("GET", "/api/v1/stores/x", None, 404, "not_found", "no store 'x'"),
        ("GET", "/api/v1/nothing", None, 404, "not_found", "GET /api/v1/nothing: Not Found"),
        ("DELETE", "/api/v1/stores", None, 405, "invalid_request", "DELETE /api/v1/stores: Method Not Allowed"),
        ("POST", "/api/v1/stores", b"{", 400, "invalid_request", "POST /api/v1/stores: 1: JSON decode error"),
        ("POST", "/api/v1/stores", b"{}", 400, "invalid_request", "POST /api/v1/stores: name: Field required"),
        ("POST", "/api/v1/stores", b'"x"', 400, "invalid_request", "POST /api/v1/stores: body: Input should be"),
        ("POST", "/api/v1/stores", None, 400, "invalid_request", "POST /api/v1/stores: body: Field required"),
        (
            "POST",
            "/api/v1/stores",
            b'{"name": "s", "key_schema": "\\"long\\"", "colour": "red"}',
            400,
            "invalid_request",
            "POST /api/v1/stores: colour: Extra inputs are not permitted",
        ),
        (
            "POST",
            "/api/v1/stores",
            b'{"name": "s s", "key_schema": "\\"long\\""}',
            400,
            "invalid_request",
            "store name 's s' is not allowed",
        ),
        (
            "GET",
            "/api/v1/stores/x/versions/one",
            None,
            400,
            "invalid_request",
            "GET /api/v1/stores/x/versions/one: number: Input should be",
        ),
        ("POST", "/api/v1/stores/x/rollback", b"{}", 404, "not_found", "no store 'x'"),
    ],
)
def test_refusals_are_json(served: Served, method: str, path: str, body: bytes | None, status: int, kind: str, message: str) -> None:
    found, answer = served.call(method, path, body)
    assert (found, answer["kind"]) == (status, kind), answer
    assert answer["message"].startswith(message)
    assert answer["hint"]
    assert set(answer) == {"kind", "message", "hint", "data"}


def test_posts_without_fields_need_no_body(served: Served) -> None:
    served.client.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    served.client.create_version("s", push_id="p")
    for path in ("heartbeat", "kill"):
        assert served.call("POST", f"/api/v1/stores/s/versions/1/{path}")[0] == 200


def test_the_openapi_page_names_every_call(served: Served) -> None:
    status, answer = served.call("GET", "/api/v1/openapi.json")
    assert status == 200
    assert {
        "/api/v1/stores",
        "/api/v1/stores/{store}/schemas",
        "/api/v1/stores/{store}/versions/{number}/seal",
        "/api/v1/stores/{store}/roll-forward",
        "/api/v1/nodes",
        "/api/v1/health",
    } <= set(answer["paths"])


def test_a_bug_is_told_without_its_trace(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(served.controller, "nodes", broken)
    status, answer = served.call("GET", "/api/v1/nodes")
    assert (status, answer["kind"]) == (500, "error")
    assert "secret" not in json.dumps(answer)


def test_nobody_there_is_unavailable_after_a_while(free_port: Callable[[], int]) -> None:
    clock = ManualClock()
    client = ControllerClient(f"http://127.0.0.1:{free_port()}", clock, retry_s=3)
    with pytest.raises(Unavailable, match=r"no controller answers at http://127\.0\.0\.1"):
        client.list_stores()
    assert 2 < clock.monotonic_s() <= 3


def test_a_controller_that_restarts_is_waited_for(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    first = Served(tmp_path, port)
    first.client.create_store("s", key_schema=KEY_SCHEMA)
    first.close()
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.extend(store.name for store in first.client.list_stores()))
    asking.start()
    second = Served(tmp_path, port)
    asking.join()
    assert found == ["s"]
    second.close()


@pytest.mark.parametrize("url", ["https://x", "localhost:7070", "http://", ""])
def test_urls(url: str) -> None:
    with pytest.raises(InvalidRequest, match="controller URL"):
        ControllerClient(url, CLOCK)
