"""An HTTP handler in Python on WASI 0.2: it answers with the request's method and path."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        method = type(request.method()).__name__.removeprefix("Method_").lower()
        body = f"hello from python: {method} {request.path_with_query()}\n".encode()
        headers = Fields.from_list([
            ("content-type", b"text/plain"),
            ("content-length", str(len(body)).encode()),
        ])
        response = OutgoingResponse(headers)
        outgoing = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with outgoing.write() as stream:
            stream.blocking_write_and_flush(body)
        OutgoingBody.finish(outgoing, None)
