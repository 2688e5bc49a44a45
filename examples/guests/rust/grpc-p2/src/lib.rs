//! A gRPC server as an HTTP handler of WASI 0.2: the health protocol `grpc.health.v1.Health/Check`, and
//! no more. The node speaks HTTP/2 to clients that begin with it; a message is bytes of the body, and
//! the status of a call is a trailer.
//!
//! The server itself (the service of no name) is well, `unwell` is not, and others it does not know.

use std::io::{Read, Write};

use wasip2::exports::http::incoming_handler;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

/// More than this is not read of a request.
const MAX_REQUEST_BYTES: u64 = 4096;
// Status codes of gRPC.
const OK: &str = "0";
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";
/// HealthCheckResponse messages behind their heads: field 1 is 1 (SERVING), or 2 (NOT_SERVING).
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];

struct Handler;
wasip2::http::proxy::export!(Handler);

impl incoming_handler::Guest for Handler {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (code, answer) = match path.as_str() {
            "/grpc.health.v1.Health/Check" => check(&request),
            _ => (UNIMPLEMENTED, &[][..]),
        };
        let headers = Fields::new();
        let _ = headers.append("content-type", b"application/grpc");
        let response = OutgoingResponse::new(headers);
        response.set_status_code(200).unwrap();
        let body = response.body().unwrap();
        ResponseOutparam::set(response_out, Ok(response));

        let mut stream = body.write().unwrap();
        stream.write_all(answer).unwrap();
        stream.flush().unwrap();
        // A child resource goes before its parent: `finish` traps while the stream is open.
        drop(stream);
        let trailers = Fields::new();
        let _ = trailers.append("grpc-status", code.as_bytes());
        OutgoingBody::finish(body, Some(trailers)).unwrap();
    }
}

fn check(request: &IncomingRequest) -> (&'static str, &'static [u8]) {
    let mut message = Vec::new();
    let body = request.consume().unwrap();
    let stream = body.stream().unwrap();
    let _ = stream.take(MAX_REQUEST_BYTES).read_to_end(&mut message);
    drop(body);
    // Behind the head of five bytes: the field's tag, the name's length, the name.
    match message.get(7..).unwrap_or_default() {
        b"" => (OK, SERVING),
        b"unwell" => (OK, NOT_SERVING),
        _ => (NOT_FOUND, b""),
    }
}
