//! A client on the network interfaces of WASI 0.2. Each argument is one try, and prints one line:
//! `lookup=NAME`, `tcp=ADDRESS:PORT` and `udp=ADDRESS:PORT` (sends "ping", prints what comes back),
//! `http=AUTHORITY/PATH`.

use std::io::Write;

use wasip2::cli::{environment, stdout};
use wasip2::exports::cli::run;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
use wasip2::io::poll::Pollable;
use wasip2::io::streams::StreamError;
use wasip2::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use wasip2::sockets::udp::OutgoingDatagram;
use wasip2::sockets::{instance_network, ip_name_lookup, tcp_create_socket, udp_create_socket};

struct Command;
wasip2::cli::command::export!(Command);

impl run::Guest for Command {
    fn run() -> Result<(), ()> {
        let mut out = stdout::get_stdout();
        for argument in environment::get_arguments().iter().skip(1) {
            let (verb, to) = argument.split_once('=').ok_or(())?;
            let result = match verb {
                "lookup" => lookup(to).map_err(|error| format!("{error:?}")),
                "tcp" => tcp(to).map_err(|error| format!("{error:?}")),
                "udp" => udp(to).map_err(|error| format!("{error:?}")),
                "http" => http(to),
                _ => return Err(()),
            };
            let line = result.unwrap_or_else(|error| format!("error {error}"));
            let _ = writeln!(out, "{argument}: {line}");
        }
        let _ = out.flush();
        Ok(())
    }
}

/// Sockets never block: what would block says so, and is tried again when it is ready.
fn when_ready<T>(
    ready: &Pollable,
    mut attempt: impl FnMut() -> Result<T, ErrorCode>,
) -> Result<T, ErrorCode> {
    loop {
        match attempt() {
            Err(ErrorCode::WouldBlock) => ready.block(),
            result => return result,
        }
    }
}

fn address(text: &str) -> Result<IpSocketAddress, ErrorCode> {
    let parsed: std::net::SocketAddrV4 = text.parse().map_err(|_| ErrorCode::InvalidArgument)?;
    let [a, b, c, d] = parsed.ip().octets();
    Ok(IpSocketAddress::Ipv4(Ipv4SocketAddress { port: parsed.port(), address: (a, b, c, d) }))
}

fn lookup(name: &str) -> Result<String, ErrorCode> {
    let network = instance_network::instance_network();
    let stream = ip_name_lookup::resolve_addresses(&network, name)?;
    let ready = stream.subscribe();
    let mut found = Vec::new();
    while let Some(address) = when_ready(&ready, || stream.resolve_next_address())? {
        found.push(match address {
            IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
            IpAddress::Ipv6(parts) => format!("{parts:?}"),
        });
    }
    Ok(format!("ok {}", found.join(" ")))
}

fn tcp(to: &str) -> Result<String, ErrorCode> {
    let network = instance_network::instance_network();
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    let ready = socket.subscribe();
    socket.start_connect(&network, address(to)?)?;
    let (input, output) = when_ready(&ready, || socket.finish_connect())?;
    output.blocking_write_and_flush(b"ping").map_err(|_| ErrorCode::ConnectionReset)?;
    let answer = input.blocking_read(64).map_err(|_| ErrorCode::ConnectionReset)?;
    Ok(format!("ok {}", String::from_utf8_lossy(&answer)))
}

fn udp(to: &str) -> Result<String, ErrorCode> {
    let network = instance_network::instance_network();
    let socket = udp_create_socket::create_udp_socket(IpAddressFamily::Ipv4)?;
    let ready = socket.subscribe();
    socket.start_bind(&network, address("0.0.0.0:0")?)?;
    when_ready(&ready, || socket.finish_bind())?;
    let (incoming, outgoing) = socket.stream(None)?;
    let ready = outgoing.subscribe();
    while outgoing.check_send()? == 0 {
        ready.block();
    }
    let remote_address = Some(address(to)?);
    outgoing.send(&[OutgoingDatagram { data: b"ping".to_vec(), remote_address }])?;
    let ready = incoming.subscribe();
    loop {
        if let Some(datagram) = incoming.receive(1)?.pop() {
            return Ok(format!("ok {}", String::from_utf8_lossy(&datagram.data)));
        }
        ready.block();
    }
}

fn http(to: &str) -> Result<String, String> {
    let (authority, path) = to.split_once('/').unwrap_or((to, ""));
    let headers = Fields::new();
    // A header of another host, where the host lets it through, must lead nowhere else.
    let _ = headers.append("host", b"elsewhere.example");
    let request = OutgoingRequest::new(headers);
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(|()| "path")?;
    let answer = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    answer.subscribe().block();
    let answer = answer.get().ok_or("no answer")?.map_err(|()| "taken")?;
    let answer = answer.map_err(|error| format!("{error:?}"))?;
    let body = answer.consume().map_err(|()| "no body")?;
    let stream = body.stream().map_err(|()| "no stream")?;
    let mut text = Vec::new();
    loop {
        match stream.blocking_read(4096) {
            Ok(bytes) => text.extend(bytes),
            Err(StreamError::Closed) => break,
            Err(error) => return Err(format!("{error:?}")),
        }
    }
    Ok(format!("ok {} {}", answer.status(), String::from_utf8_lossy(&text).trim()))
}
