"""The HTTP side: from Twisted's request to a Call, and the answer back.

`DemoRequest` reads uploads while they arrive and may answer before they are whole.  The resource
also works below an ordinary `Site` (treq's `RequestTraversalAgent` makes one), where uploads lie
in memory, as they do in Twisted.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any

from attrs import frozen
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from immich_conch.demo import (
    web_albums,
    web_assets,
    web_auth,
    web_download,
    web_people,
    web_search,
    web_server,
    web_sync,
    web_tags,
    web_timeline,
    web_upload,
)
from immich_conch.demo.control import Control
from immich_conch.demo.faults import Fault, Faults
from immich_conch.demo.refusals import Refusal
from immich_conch.demo.routing import (
    Answer,
    Call,
    Core,
    Route,
    Routes,
    authenticate,
    check_permission,
)
from immich_conch.demo.sending import cut, early, header_of, query, send
from immich_conch.demo.storage import CHUNK
from immich_conch.demo.upload import UploadBody

_ROUTES = Routes(
    (
        *web_albums.ROUTES,
        *web_assets.ROUTES,
        *web_auth.ROUTES,
        *web_download.ROUTES,
        *web_people.ROUTES,
        *web_search.ROUTES,
        *web_server.ROUTES,
        *web_sync.ROUTES,
        *web_tags.ROUTES,
        *web_timeline.ROUTES,
        *web_upload.ROUTES,
    )
)

_API = "/api"


def _untyped(thing: object) -> Any:
    """Twisted's web classes carry few annotations; nothing is to be learned from them."""
    return thing


@frozen
class Plan:
    """What a request's first line says, and the fault it meets."""

    method: str
    path: str
    route: Route | None
    params: dict[str, str]
    fault: Fault | None

    @property
    def name(self) -> str:
        """As requests are counted."""
        return f"{self.method} {self.route.pattern if self.route else self.path}"

    @property
    def is_upload(self) -> bool:
        """Whether the body is a file."""
        return self.name == "POST /assets"

    def meets(self, kind: str) -> bool:
        """Whether the fault is of a kind."""
        return self.fault is not None and self.fault.kind == kind


class Web:
    """Answers requests; one for each DemoImmich."""

    def __init__(self, core: Core, faults: Faults, control: Control | None) -> None:
        self.core = core
        self.faults = faults
        self.requests: Counter[str] = Counter()
        self._control = control

    def plan(self, method: str, uri: str) -> Plan:
        """Where a request goes."""
        path = uri.partition("?")[0]
        if not path.startswith(_API + "/"):
            return Plan(method, path, None, {}, None)
        path = path.removeprefix(_API)
        found = _ROUTES.find(method, path)
        fault = self.faults.take(method, found[0].pattern if found else path, path)
        if found is None:
            return Plan(method, path, None, {}, fault)
        return Plan(method, path, found[0], found[1], fault)

    def serve(self, request: Any, plan: Plan) -> None:
        """Answer a request that is there as a whole."""
        if plan.path.startswith("/control/") and self._control is not None:
            answer = self._control.answer(plan.method, plan.path, request.content.read())
            send(request, answer, None, self.core.state.clock)
            return
        self.requests[plan.name] += 1
        fault = plan.fault
        if fault is not None and fault.kind in ("refuse", "cut-request"):
            cut(request)
        elif fault is not None and fault.kind == "hang":
            if fault.seconds is not None:
                self.core.state.clock.callLater(fault.seconds, self._act, request, plan)
        else:
            self._act(request, plan)

    def _act(self, request: Any, plan: Plan) -> None:
        if request.channel is None:
            return
        answer = self.answer(request, plan)
        if plan.meets("lose-answer"):
            cut(request)
        else:
            send(request, answer, plan.fault, self.core.state.clock)

    def answer(self, request: Any, plan: Plan) -> Answer:
        """Do what is asked."""
        try:
            return self._answer(request, plan)
        except Refusal as refusal:
            return self.refused(refusal)
        finally:
            self.core.state.flush()

    def refused(self, refusal: Refusal) -> Answer:
        """A Refusal as an answer."""
        body = refusal.body(self.core.modern, secrets.token_hex(4))
        return Answer(refusal.status, body, refusal.headers)

    def _answer(self, request: Any, plan: Plan) -> Answer:
        fault, route, state = plan.fault, plan.route, self.core.state
        if fault is not None and fault.kind == "status":
            wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            raise Refusal(fault.status, "A fault was asked for", headers=wait)
        if route is None:
            raise Refusal(404, f"Cannot {plan.method} {request.uri.decode('utf-8', 'replace')}")

        def header(name: str) -> str | None:
            return header_of(request, name)

        user = session = key = None
        if not route.public:
            user, session, key = authenticate(state, header)
            if plan.meets("revoked"):
                if session is not None:
                    state.end_session(session)
                if key is not None:
                    state.end_key(key)
                user, session, key = authenticate(state, header)
            check_permission(route, key)
        upload = self._upload(request) if plan.is_upload else None
        call = Call(
            core=self.core,
            params=plan.params,
            query=query(request.args),
            header=header,
            body=b"" if plan.is_upload else request.content.read(),
            upload=upload,
            session=session,
            key=key,
            user=user,
            quota_full=plan.meets("quota-full"),
            head=plan.method == "HEAD",
        )
        try:
            return route.handler(call)
        finally:
            if upload is not None:
                upload.close()

    def _upload(self, request: Any) -> UploadBody:
        content = request.content
        if isinstance(content, UploadBody):
            body = content
        else:
            body = self.upload_body(request)
            while piece := content.read(CHUNK):
                body.write(piece)
        body.finish()
        return body

    def upload_body(self, request: Any) -> UploadBody:
        """What an upload's bytes are written to."""
        return UploadBody(self.core.state.storage, header_of(request, "Content-Type") or "")

    def before_upload(self, request: Any, plan: Plan) -> Answer | None:
        """The answer to an upload that needs no body, or None."""
        if plan.fault is not None and plan.fault.kind != "slow":
            return None
        try:
            user, _session, key = authenticate(
                self.core.state, lambda name: header_of(request, name)
            )
            if plan.route is not None:
                check_permission(plan.route, key)
        except Refusal as refusal:
            return self.refused(refusal)
        checksum = header_of(request, "x-immich-checksum")
        return web_upload.announced_duplicate(self.core, user, checksum)


class DemoRequest(Request):
    """A request whose upload goes straight to disk, and that faults can break off."""

    _plan: Plan | None = None
    _dead = False
    _answered = False
    _body_bytes = 0

    def gotLength(self, length: int | None) -> None:
        """The head is there: decide what to do with the body."""
        channel: Any = self.channel
        web: Web = channel.site.web
        method, uri = channel._command.decode("latin-1"), channel._path.decode("latin-1")
        plan = self._plan = web.plan(method, uri)
        if not plan.is_upload:
            _untyped(super()).gotLength(length)
        else:
            # An upload may stall for minutes (FACTS.md); only idle connections are closed.
            channel.setTimeout(None)
            self.content = web.upload_body(self)
            answer = web.before_upload(self, plan)
            if answer is not None:
                web.requests[plan.name] += 1
                self._answered = True
                # Nobody needs the body any more, so Twisted must not ask for it.
                self.requestHeaders.removeHeader(b"expect")
                channel.write(early(answer, close=not channel.persistent))
                if not channel.persistent:
                    channel.loseConnection()
        if plan.meets("refuse"):
            self._break_off(web, plan)

    def _break_off(self, web: Web, plan: Plan) -> None:
        self._dead = True
        web.requests[plan.name] += 1
        cut(self)

    def handleContentChunk(self, data: bytes) -> None:
        """The next bytes of the body."""
        if self._dead or self._answered:
            return
        self._body_bytes += len(data)
        plan, fault = self._plan, self._plan.fault if self._plan else None
        if fault is not None and fault.kind == "cut-request" and self._body_bytes >= fault.after:
            assert plan is not None
            self._break_off(_untyped(self.channel).site.web, plan)
            return
        _untyped(super()).handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is there: render, unless all is said already."""
        if self._dead:
            return
        if self._answered:
            self.method, self.uri, self.clientproto = command, path, version
            # The head went out in gotLength; nothing may be written any more.
            self.startedWriting, self.chunked = True, False
            self.finish()
        elif isinstance(self.content, UploadBody):
            self.method, self.uri, self.clientproto = command, path, version
            self.path, self.args = path.partition(b"?")[0], {}
            _untyped(self).process()
        else:
            _untyped(super()).requestReceived(command, path, version)

    def finish(self) -> None:
        """Done; the connection may idle for a while from now on."""
        channel: Any = self.channel
        _untyped(super()).finish()
        if channel is not None:
            channel.setTimeout(channel.timeOut or channel.site.timeOut)

    def plan(self, web: Web) -> Plan:
        """The plan made when the head was there."""
        assert self._plan is not None
        return self._plan


class DemoResource(Resource):
    """The whole tree in one leaf."""

    isLeaf = True

    def __init__(self, web: Web) -> None:
        _untyped(super()).__init__()
        self._web = web

    def render(self, request: Request) -> int:
        """Answer any method."""
        if isinstance(request, DemoRequest):
            plan = request.plan(self._web)
        else:
            plan = self._web.plan(request.method.decode(), request.uri.decode("latin-1"))
        self._web.serve(request, plan)
        return NOT_DONE_YET


class DemoSite(Site):
    """The site that a listening demo uses."""

    requestFactory = DemoRequest

    def __init__(self, web: Web, timeout: float | None, reactor: Any) -> None:
        _untyped(super()).__init__(DemoResource(web), timeout=timeout, reactor=reactor)
        self.web = web
