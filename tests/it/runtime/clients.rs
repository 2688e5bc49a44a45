//! HTTP clients and a handler to call, for the tests beside this file.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Harness, PATIENCE, Running, built, component_like, http_component};

pub type Client = SendRequest<Empty<Bytes>>;

pub async fn connect(address: SocketAddr) -> std::io::Result<Client> {
    let stream = TcpStream::connect(address).await?;
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    Ok(client)
}

pub fn request(address: SocketAddr, path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", address.to_string());
    request.body(Empty::new()).expect("a request")
}

pub async fn body(response: Response<hyper::body::Incoming>) -> Result<String, hyper::Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub async fn serve(harness: &Harness, wasm: &[u8]) -> (Running, SocketAddr) {
    let (spec, _) = harness.spec(wasm).await;
    let address = SocketAddr::new(spec.pod_ip, spec.http_ports[0]);
    let mut running = harness.start(spec).await.expect("it starts");
    running.started().await;
    (running, address)
}

/// A handler that counts to `steps` and then answers, in the text guests' world.
pub fn handler(steps: u32, then: &str) -> Vec<u8> {
    handler_that("", steps, then)
}

/// The same, that does something else first.
pub fn handler_that(first: &str, steps: u32, then: &str) -> Vec<u8> {
    let template = r#"(module
  (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.0" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]response-outparam.set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.0" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.0" "[resource-drop]incoming-request" (func $drop-request (param i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $write-flush (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop-stream (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (data (i32.const 16) "hello from wat http\0a")
  (func (export "wasi:http/incoming-handler@0.2.0#handle") (param $req i32) (param $out i32)
    (local $resp i32) (local $ob i32) (local $s i32) (local $i i32)
    FIRST
    (loop $count
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $count (i32.lt_u (local.get $i) (i32.const STEPS))))
    (call $drop-request (local.get $req))
    (local.set $resp (call $response (call $fields)))
    (call $body (local.get $resp) (i32.const 256))
    (local.set $ob (i32.load (i32.const 260)))
    (call $set (local.get $out) (i32.const 0) (local.get $resp) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $write (local.get $ob) (i32.const 256))
    (local.set $s (i32.load (i32.const 260)))
    (call $write-flush (local.get $s) (i32.const 16) (i32.const 20) (i32.const 512))
    THEN
    (call $drop-stream (local.get $s))
    (call $finish (local.get $ob) (i32.const 0) (i32.const 0) (i32.const 512))))"#;
    let text = template.replace("FIRST", first).replace("STEPS", &steps.to_string());
    http_component(&text.replace("THEN", then))
}

/// A handler that answers once it has the whole body of its request.
pub fn body_reader() -> Vec<u8> {
    component_like(built!("rust-http-wstd.wasm"), include_str!("../guests/http-body.wat"))
}

/// Sends text over a connection of its own and returns all that is answered, until its end.
pub async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it is taken");
    rest_of(&mut stream).await
}

/// What else comes on a connection, until its end.
pub async fn rest_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    read.expect("the connection is ended").expect("it is not reset");
    String::from_utf8_lossy(&answer).into_owned()
}
