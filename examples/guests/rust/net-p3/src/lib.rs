//! A client on the network interfaces of WASI 0.3. Each argument is one try, and prints one line:
//! `lookup=NAME`, `tcp=ADDRESS:PORT` and `udp=ADDRESS:PORT` (sends "ping", prints what comes back),
//! `http=AUTHORITY/PATH`.

use wasip3::cli::{environment, stdout};
use wasip3::exports::cli::run;
use wasip3::http::client;
use wasip3::http::types::{Fields, Request, Response, Scheme};
use wasip3::sockets::ip_name_lookup;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_bindgen::spawn_local;
use wasip3::{wit_future, wit_stream};

struct Command;
wasip3::cli::command::export!(Command);

impl run::Guest for Command {
    async fn run() -> Result<(), ()> {
        let mut text = String::new();
        for argument in environment::get_arguments().iter().skip(1) {
            let (verb, to) = argument.split_once('=').ok_or(())?;
            let result = match verb {
                "lookup" => lookup(to).await,
                "tcp" => tcp(to).await.map_err(|error| format!("{error:?}")),
                "udp" => udp(to).await.map_err(|error| format!("{error:?}")),
                "http" => http(to).await,
                _ => return Err(()),
            };
            let line = result.unwrap_or_else(|error| format!("error {error}"));
            text += &format!("{argument}: {line}\n");
        }
        let (mut writer, reader) = wit_stream::new();
        spawn_local(async move {
            let _ = writer.write_all(text.into_bytes()).await;
        });
        stdout::write_via_stream(reader).await.map_err(drop)
    }
}

fn address(text: &str) -> Result<IpSocketAddress, ErrorCode> {
    let parsed: std::net::SocketAddrV4 = text.parse().map_err(|_| ErrorCode::InvalidArgument)?;
    let [a, b, c, d] = parsed.ip().octets();
    Ok(IpSocketAddress::Ipv4(Ipv4SocketAddress { port: parsed.port(), address: (a, b, c, d) }))
}

async fn lookup(name: &str) -> Result<String, String> {
    let found = ip_name_lookup::resolve_addresses(name.to_owned()).await;
    let found = found.map_err(|error| format!("{error:?}"))?;
    let found: Vec<String> = found
        .into_iter()
        .map(|address| match address {
            IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
            IpAddress::Ipv6(parts) => format!("{parts:?}"),
        })
        .collect();
    Ok(format!("ok {}", found.join(" ")))
}

async fn tcp(to: &str) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(address(to)?).await?;
    let (mut input, _received) = socket.receive();
    let (mut output, reader) = wit_stream::new();
    let sent = socket.send(reader);
    let _ = output.write_all(b"ping".to_vec()).await;
    let (_, answer) = input.read(Vec::with_capacity(64)).await;
    drop(output);
    let _ = sent.await;
    Ok(format!("ok {}", String::from_utf8_lossy(&answer)))
}

/// Without a bind: the host gives the socket its address.
async fn udp(to: &str) -> Result<String, ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.send(b"ping".to_vec(), Some(address(to)?)).await?;
    let (answer, _) = socket.receive().await?;
    Ok(format!("ok {}", String::from_utf8_lossy(&answer)))
}

async fn http(to: &str) -> Result<String, String> {
    let (authority, path) = to.split_once('/').unwrap_or((to, ""));
    let headers = Fields::new();
    // A header of another host, where the host lets it through, must lead nowhere else.
    let _ = headers.append("host", b"elsewhere.example");
    let (no_trailers, trailers) = wit_future::new(|| Ok(None));
    drop(no_trailers);
    let (request, _sent) = Request::new(headers, None, trailers, None);
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(|()| "path")?;
    let answer = client::send(request).await.map_err(|error| format!("{error:?}"))?;
    let status = answer.get_status_code();
    let (taken, done) = wit_future::new(|| Ok(()));
    let (body, _trailers) = Response::consume_body(answer, done);
    let text = body.collect().await;
    drop(taken);
    Ok(format!("ok {status} {}", String::from_utf8_lossy(&text).trim()))
}
