"""Faults happen when they are asked for, once, and to the request they are meant for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
import treq
from demo_client import NOW, Client, ann, demo, make_demo
from demo_replay import exchange
from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.web.client import Agent, ResponseFailed

from immich_conch.demo import DemoImmich
from immich_conch.demo.faults import KINDS

__all__ = ["ann", "demo"]

reactor: Any = _reactor


@pytest.fixture
def made() -> Iterator[tuple[DemoImmich, Clock]]:
    demo, clock = make_demo(control=True)
    demo.add_user("ann@example.com", "pw", "Ann")
    yield demo, clock
    demo.close()


def start(demo: DemoImmich, request: str, body: bytes = b"") -> tuple[Any, StringTransport]:
    """Send the beginning of a request over a connection of its own."""
    transport = StringTransport()
    protocol = demo.site().buildProtocol(None)
    protocol.makeConnection(transport)
    protocol.dataReceived(request.encode() + body)
    return protocol, transport


def get(ann: Client, path: str) -> str:
    token = ann.headers["Authorization"]
    return f"GET /api{path} HTTP/1.1\r\nHost: demo\r\nAuthorization: {token}\r\n\r\n"


def post_file(ann: Client, extra: str = "") -> tuple[str, bytes]:
    kind, form = ann.form("a.jpg", b"x" * 5000)
    head = (
        f"POST /api/assets HTTP/1.1\r\nHost: demo\r\nContent-Type: {kind}\r\n{extra}"
        f"Authorization: {ann.headers['Authorization']}\r\nContent-Length: {len(form)}\r\n\r\n"
    )
    return head, form


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_a_status_fault_does_nothing_and_is_used_up(
    demo: DemoImmich, ann: Client, status: int
) -> None:
    demo.faults.add("status", method="POST", route="/albums", status=status, retry_after=7)
    reply = ann("POST", "/albums", {"albumName": "A"})
    assert (reply.status, reply.headers["retry-after"]) == (status, "7")
    assert not demo.state.albums
    assert ann("POST", "/albums", {"albumName": "A"}).status == 201


def test_a_fault_meets_only_its_method_and_route(demo: DemoImmich, ann: Client) -> None:
    album = demo.add_album(demo.user("ann@example.com"), "A")
    demo.faults.add("status", method="GET", route="/albums/{id}", count=2)
    assert ann("GET", "/albums").status == 200
    assert ann("PATCH", f"/albums/{album.id}", {"albumName": "B"}).status == 200
    assert [ann("GET", f"/albums/{album.id}").status for _ in range(3)] == [503, 503, 200]
    demo.faults.add("status", route=f"/albums/{album.id[:4]}*", count=None)
    assert [ann("GET", f"/albums/{album.id}").status for _ in range(3)] == [503, 503, 503]
    demo.faults.clear()
    assert ann("GET", f"/albums/{album.id}").status == 200


def test_a_fault_of_half_the_requests_meets_about_half(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("status", count=None, probability=0.5)
    met = [ann("GET", "/server/ping").status for _ in range(200)].count(503)
    assert 60 < met < 140


def test_a_refused_connection_gets_no_answer(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("refuse")
    _protocol, transport = start(demo, get(ann, "/albums"))
    assert transport.disconnecting
    assert transport.value() == b""


def test_a_refused_request_changes_nothing(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("refuse", method="POST", route="/assets")
    head, form = post_file(ann)
    start(demo, head, form)
    assert not demo.state.assets


def test_a_lost_answer_is_of_a_change_that_was_made(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("lose-answer", method="POST", route="/assets")
    head, form = post_file(ann)
    _protocol, transport = start(demo, head, form)
    assert transport.disconnecting
    assert transport.value() == b""
    assert len(demo.state.assets) == 1


def test_a_hanging_request_is_done_after_its_time(
    made: tuple[DemoImmich, Clock], ann: Client
) -> None:
    demo, clock = made
    demo.faults.add("hang", seconds=3)
    _protocol, transport = start(demo, get(ann, "/albums"))
    clock.advance(2.9)
    assert transport.value() == b""
    clock.advance(0.2)
    assert transport.value().startswith(b"HTTP/1.1 200 OK")


def test_a_request_can_hang_for_ever(made: tuple[DemoImmich, Clock], ann: Client) -> None:
    demo, clock = made
    demo.faults.add("hang")
    _protocol, transport = start(demo, get(ann, "/albums"))
    clock.advance(10_000)
    assert transport.value() == b""
    assert not transport.disconnecting


def test_an_upload_is_cut_after_its_bytes(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("cut-request", method="POST", route="/assets", after=1000)
    head, form = post_file(ann)
    protocol, transport = start(demo, head, form[:900])
    assert not transport.disconnecting
    protocol.dataReceived(form[900:1100])
    assert transport.disconnecting
    protocol.dataReceived(form[1100:])
    assert transport.value() == b""
    assert not demo.state.assets


@pytest.mark.parametrize("after", [0, 1, 70_000])
def test_a_download_is_cut_after_its_bytes(demo: DemoImmich, ann: Client, after: int) -> None:
    asset = demo.add_asset(demo.user("ann@example.com"), "a.mov", None, NOW, size=200_000)
    demo.faults.add("cut-response", route="/assets/{id}/original", after=after)
    _protocol, transport = start(demo, get(ann, f"/assets/{asset.id}/original"))
    head, _, body = transport.value().partition(b"\r\n\r\n")
    assert b"Content-Length: 200000" in head
    assert len(body) == after
    assert transport.disconnecting


def test_a_slow_answer_flows_at_its_rate(made: tuple[DemoImmich, Clock], ann: Client) -> None:
    demo, clock = made
    asset = demo.add_asset(demo.user("ann@example.com"), "a.mov", None, NOW, size=5000)
    demo.faults.add("slow", rate=1000)
    _protocol, transport = start(demo, get(ann, f"/assets/{asset.id}/original"))
    clock.pump([0.1] * 19)
    body = transport.value().partition(b"\r\n\r\n")[2]
    assert len(body) == 2000
    clock.pump([0.1] * 31)
    assert transport.value().partition(b"\r\n\r\n")[2] == demo.content(asset)


def test_a_full_quota_refuses_an_upload_only(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("quota-full", method="POST", route="/assets")
    assert ann.upload("a.jpg", b"1").json["message"] == "Quota has been exceeded!"
    assert ann.upload("a.jpg", b"1").status == 201


def test_a_revoked_session_stays_revoked(demo: DemoImmich, ann: Client) -> None:
    demo.faults.add("revoked", route="/albums")
    assert ann("GET", "/albums").status == 401
    assert ann("GET", "/albums").status == 401
    assert demo.open_sessions == 0


def test_a_fault_that_does_not_exist_is_refused(demo: DemoImmich) -> None:
    with pytest.raises(ValueError, match="no fault"):
        demo.faults.add("explode")
    with pytest.raises(ValueError, match="has no colour"):
        demo.faults.add(KINDS[0], colour="red")


def test_a_known_checksum_is_answered_before_the_body(demo: DemoImmich, ann: Client) -> None:
    checksum = "x-immich-checksum: "
    asset = demo.add_asset(demo.user("ann@example.com"), "a.jpg", b"x" * 5000, NOW)
    head, form = post_file(ann, f"{checksum}{asset.checksum}\r\n")
    protocol, transport = start(demo, head, form[:10])
    assert transport.value().startswith(b"HTTP/1.1 200 OK")
    assert asset.id.encode() in transport.value()
    transport.clear()
    protocol.dataReceived(form[10:] + get(ann, "/server/ping").encode())
    assert transport.value().startswith(b"HTTP/1.1 200 OK"), "the connection goes on"
    assert b"pong" in transport.value()


def test_a_known_checksum_without_keep_alive_closes_at_once(demo: DemoImmich, ann: Client) -> None:
    asset = demo.add_asset(demo.user("ann@example.com"), "a.jpg", b"x" * 5000, NOW)
    extra = f"x-immich-checksum: {asset.checksum}\r\nConnection: close\r\n"
    head, form = post_file(ann, extra)
    _protocol, transport = start(demo, head, form[:10])
    assert transport.disconnecting


def test_control_sees_and_changes_everything(demo: DemoImmich) -> None:
    client = Client(demo)

    def ask(method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        status, _headers, answer = exchange(demo, method, f"/control/{path}", {}, body, False)
        return status, json.loads(answer)

    new = {"email": "eve@example.com", "password": "pw", "name": "Eve"}
    assert ask("POST", "users", json.dumps(new).encode())[0] == 200
    many = [{"name": f"{n}.jpg", "modified": NOW, "size": 100 + n} for n in range(3)]
    _, made = ask("POST", "assets", json.dumps({"email": new["email"], "assets": many}).encode())
    album = {"email": new["email"], "name": "E", "assets": made["ids"]}
    ask("POST", "albums", json.dumps(album).encode())
    _, state = ask("GET", "state")
    assert [a["name"] for a in state["albums"][0]["assets"]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert state["albums"][0]["assets"][2]["size"] == 102
    assert state["sessions"] == 0
    ask("POST", "faults", json.dumps({"kind": "status", "route": "/server/ping"}).encode())
    assert client("GET", "/server/ping").status == 503
    assert ask("POST", "faults", b'{"kind": "explode"}')[0] == 400
    assert ask("GET", "nothing")[0] == 404


def test_control_is_off_unless_asked_for() -> None:
    demo, _clock = make_demo()
    assert exchange(demo, "GET", "/control/state", {}, b"", False)[0] == 404
    demo.close()


@pytest_twisted.ensureDeferred
async def test_a_real_client_meets_the_faults_over_a_real_connection() -> None:
    demo = DemoImmich()
    user = demo.add_user("ann@example.com", "pw", "Ann")
    secret = demo.add_key(user)
    asset = demo.add_asset(user, "a.mov", None, NOW, size=3_000_000)
    port = reactor.listenTCP(0, demo.site(), interface="127.0.0.1")
    try:
        base = f"http://127.0.0.1:{port.getHost().port}/api"
        client = HTTPClient(Agent(reactor))
        headers = {"x-api-key": secret}
        url = f"{base}/assets/{asset.id}/original"
        response = await client.get(url, headers=headers, unbuffered=True)
        assert await response.content() == demo.content(asset)
        demo.faults.add("cut-response", after=1_000_000)
        response = await client.get(url, headers=headers, unbuffered=True)
        with pytest.raises(ResponseFailed):
            await response.content()
        for kind in ("refuse", "lose-answer"):
            demo.faults.add(kind)
            with pytest.raises(ResponseFailed):
                await client.get(f"{base}/server/ping")
        response = await client.get(f"{base}/server/ping")
        assert await response.json() == {"res": "pong"}
    finally:
        await port.stopListening()
        demo.close()


@pytest_twisted.ensureDeferred
async def test_the_demo_serves_treqs_agent_in_memory(demo: DemoImmich) -> None:
    agent = RequestTraversalAgent(demo.resource())
    client = HTTPClient(agent)
    secret = demo.add_key(demo.user("ann@example.com"))
    headers = {"x-api-key": secret}
    when = "2020-02-03T04:05:06.000Z"
    waiting = client.post(
        "http://demo/api/assets",
        headers=headers,
        data={"fileCreatedAt": when, "fileModifiedAt": when},
        files={"assetData": ("a.jpg", io.BytesIO(b"bytes"))},
    )
    response = await settled(agent, waiting)
    assert response.code == 201
    asset_id = (await settled(agent, treq.json_content(response)))["id"]
    assert demo.content(demo.state.assets[asset_id]) == b"bytes"


async def settled(agent: RequestTraversalAgent, waiting: Any) -> Any:
    """treq reads a form piece by piece on the real reactor, so this takes some turns of it."""
    results: list[Any] = []
    waiting.addBoth(results.append)
    while not results:
        await deferLater(reactor, 0, agent.flush)
    return results[0]
