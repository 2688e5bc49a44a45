//! A server that remembers, for tests that ask for more than an answer: the part of Kubernetes'
//! `agnhost` that the conformance tests need. It speaks just enough of HTTP/1, on sockets of its own.
//!
//! Arguments: `port=NUMBER` (8080; several are served side by side), `healthy=SECONDS` (how long after
//! its start `/healthz` is well; for ever by default). What it answers with:
//!
//! ```text
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
        let path = request.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let status = match path {
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
        let (who, length) = (&self.who, self.who.len());
        let _ = write!(
            output,
            "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{who}"
        );
        let _ = output.flush();
    }
}

fn say(line: &str) {
    let mut out = stdout::get_stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
