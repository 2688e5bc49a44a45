//! A server that remembers, for tests that ask for more than an answer: the part of Kubernetes'
//! `agnhost` that the conformance tests need. It speaks just enough of HTTP/1, on sockets of its own.
//!
//! Arguments: `port=NUMBER` (8080; several are served side by side), `healthy=SECONDS` (how long after
//! its start `/healthz` is well; for ever by default); `dial=QUERY` does what `/dial` does, and ends.
//! What it answers with:
//!
//! ```text
//!   /dial         what ?request= of ?host= and ?port= is answered with
//!   /echo         ?msg=, and a line of its log with the request
//!   /healthz      200, and 500 once it is not healthy any more
//!   /index.html   200; 404 after /break, until /mend
//!   /exit         nothing: it ends with code 1
//!   all others    200 and $WHO
//! ```

use std::io::Write;

use wasip2::cli::{environment, exit, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::cli::run;
use wasip2::io::poll::{self, Pollable};
use wasip2::io::streams::{InputStream, OutputStream};
use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasip2::sockets::tcp::TcpSocket;
use wasip2::sockets::{instance_network, tcp_create_socket};

/// More than this is not read of a request.
const MAX_REQUEST_BYTES: usize = 8192;
const NANOS: u64 = 1_000_000_000;

struct Command;
wasip2::cli::command::export!(Command);

struct Server {
    who: String,
    /// When its health ends, on the monotonic clock.
    healthy_until: u64,
    broken: bool,
}

impl run::Guest for Command {
    fn run() -> Result<(), ()> {
        let (mut ports, mut healthy_until) = (Vec::new(), u64::MAX);
        for argument in environment::get_arguments() {
            match argument.split_once('=') {
                Some(("port", port)) => ports.push(port.parse().map_err(drop)?),
                Some(("healthy", seconds)) => {
                    let nanos = seconds.parse::<u64>().map_err(drop)? * NANOS;
                    healthy_until = monotonic_clock::now() + nanos;
                }
                Some(("dial", query)) => {
                    let answer = dial(query);
                    say(&format!("{answer:?}"));
                    return answer.map(drop).map_err(drop);
                }
                _ => {}
            }
        }
        if ports.is_empty() {
            ports.push(8080);
        }
        let who = environment::get_environment().into_iter().find(|(name, _)| name == "WHO");
        let who = who.map(|(_, who)| who).unwrap_or_default();
        let server = Server { who, healthy_until, broken: false };
        serve(server, &ports).map_err(|error| say(&format!("server error: {error:?}")))
    }
}

fn listen(port: u16) -> Result<(TcpSocket, Pollable), ErrorCode> {
    let network = instance_network::instance_network();
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    let ready = socket.subscribe();
    let any = Ipv4SocketAddress { port, address: (0, 0, 0, 0) };
    socket.start_bind(&network, IpSocketAddress::Ipv4(any))?;
    when_ready(&ready, || socket.finish_bind())?;
    socket.start_listen()?;
    when_ready(&ready, || socket.finish_listen())?;
    say(&format!("listening on {port}"));
    Ok((socket, ready))
}

fn serve(mut server: Server, ports: &[u16]) -> Result<(), ErrorCode> {
    let listeners = ports.iter().map(|port| listen(*port)).collect::<Result<Vec<_>, _>>()?;
    loop {
        let ready: Vec<&Pollable> = listeners.iter().map(|(_, ready)| ready).collect();
        for at in poll::poll(&ready) {
            match listeners[at as usize].0.accept() {
                Ok((connection, input, output)) => {
                    server.answer(input, output);
                    // Last, because its streams are its children.
                    drop(connection);
                }
                Err(ErrorCode::WouldBlock) => {}
                Err(error) => say(&format!("accept: {error:?}")),
            }
        }
    }
}

/// Sockets never block: what would block says so, and is tried again when the socket is ready.
fn when_ready<T>(
    ready: &Pollable,
    attempt: impl Fn() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    loop {
        match attempt() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            result => return result,
        }
    }
}

impl Server {
    /// Reads one request and answers it.
    fn answer(&mut self, input: InputStream, mut output: OutputStream) {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST_BYTES
        {
            match input.blocking_read(1024) {
                Ok(bytes) => request.extend(bytes),
                Err(_) => break,
            }
        }
        let request = String::from_utf8_lossy(&request);
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut text = self.who.clone();
        let status = match path {
            "/dial" => match dial(query) {
                Ok(answer) => {
                    text = answer;
                    "200 OK"
                }
                Err(error) => {
                    text = format!("{error:?}");
                    "502 Bad Gateway"
                }
            },
            "/echo" => {
                say(&format!("GET {target}"));
                text = parameter(query, "msg");
                "200 OK"
            }
            "/exit" => {
                exit::exit(Err(()));
                return;
            }
            "/healthz" if monotonic_clock::now() >= self.healthy_until => "500 Unwell",
            "/index.html" if self.broken => "404 Not Found",
            "/break" | "/mend" => {
                self.broken = path == "/break";
                "200 OK"
            }
            _ => "200 OK",
        };
        let length = text.len();
        let _ = write!(
            output,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
        );
        let _ = output.flush();
    }
}

/// A parameter of a query, with its `%XX` made plain.
fn parameter(query: &str, name: &str) -> String {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default();
    let mut plain = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &more[2..];
            }
            None => {
                plain.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Asks another server, and answers with what it says.
fn dial(query: &str) -> Result<String, ErrorCode> {
    let parts: Vec<u8> =
        parameter(query, "host").split('.').filter_map(|part| part.parse().ok()).collect();
    let (&[a, b, c, d], Ok(port)) = (&parts[..], parameter(query, "port").parse()) else {
        return Err(ErrorCode::InvalidArgument);
    };
    let network = instance_network::instance_network();
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    let ready = socket.subscribe();
    let address = Ipv4SocketAddress { port, address: (a, b, c, d) };
    socket.start_connect(&network, IpSocketAddress::Ipv4(address))?;
    let (input, mut output) = when_ready(&ready, || socket.finish_connect())?;
    let path = parameter(query, "request");
    let _ = write!(output, "GET /{path} HTTP/1.1\r\nhost: dialled\r\nconnection: close\r\n\r\n");
    let _ = output.flush();
    let mut answer = Vec::new();
    while answer.len() < MAX_REQUEST_BYTES {
        match input.blocking_read(1024) {
            Ok(bytes) => answer.extend(bytes),
            Err(_) => break,
        }
    }
    // Children go before their parent.
    drop((input, output, ready));
    drop(socket);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}

fn say(line: &str) {
    let mut out = stdout::get_stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
