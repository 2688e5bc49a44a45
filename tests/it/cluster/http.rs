//! A plain HTTP/1.1 client over loopback, strict on purpose: it repeats nothing, so that a request
//! that fails is seen.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// For connecting, and for each read and write.
const IO_LIMIT: Duration = Duration::from_secs(15);
const MAX_BODY_BYTES: usize = 1 << 20;

pub struct Response {
    pub status: u16,
    pub body: String,
    /// Whether the server lets the connection be used again.
    pub keep_alive: bool,
}

/// One connection, for one request after another.
pub struct Connection {
    stream: BufReader<TcpStream>,
    authority: String,
}

impl Connection {
    pub fn open(url: &str) -> Result<Connection, String> {
        let authority = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
        let address = authority.parse().map_err(|e| format!("{url}: {e}"))?;
        let stream = TcpStream::connect_timeout(&address, IO_LIMIT)
            .map_err(|e| format!("connecting to {authority}: {e}"))?;
        stream.set_read_timeout(Some(IO_LIMIT)).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(IO_LIMIT)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Connection { stream: BufReader::new(stream), authority: authority.to_string() })
    }

    /// Whom it leads to.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn get(&mut self, path: &str) -> Result<Response, String> {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.authority))?;
        self.answer()
    }

    /// Sends a request without its body, and returns once somebody asks for that: the guest, which
    /// has begun with the request then.
    pub fn begin(&mut self, length: usize) -> Result<(), String> {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
            self.authority
        );
        self.send(&head)?;
        match (self.line()?, self.line()?) {
            (status, end) if status.starts_with("HTTP/1.1 100 ") && end.is_empty() => Ok(()),
            other => Err(format!("not asked to go on: {other:?}")),
        }
    }

    /// Sends what is missing of a request.
    pub fn finish(&mut self, body: &str) -> Result<Response, String> {
        self.send(body)?;
        self.answer()
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        let sent = self.stream.get_mut().write_all(text.as_bytes());
        sent.map_err(|e| format!("sending: {e}"))
    }

    fn answer(&mut self) -> Result<Response, String> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| format!("no status line: {status_line:?}"))?;
        let mut length = None;
        let (mut chunked, mut keep_alive) = (false, true);
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse::<usize>().ok(),
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "connection" => keep_alive = !value.eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let body = match (length, chunked) {
            (_, true) => self.chunks()?,
            (Some(length), _) => self.exactly(length)?,
            (None, false) => return Err("an answer without a length".into()),
        };
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Response { status, body, keep_alive })
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("the connection was closed before the answer's end".into()),
            Ok(_) => Ok(line.trim_end().to_string()),
            Err(e) => Err(format!("reading: {e}")),
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        if length > MAX_BODY_BYTES {
            return Err(format!("a body of {length} bytes"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map_err(|e| format!("reading the body: {e}"))?;
        Ok(body)
    }

    fn chunks(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(&line, 16).map_err(|e| format!("{line:?}: {e}"))?;
            body.extend(self.exactly(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// The body of one GET on a connection of its own; anything but a 200 is an error.
pub fn get(url: &str) -> Result<String, String> {
    let response = Connection::open(url)?.get("/")?;
    match response.status {
        200 => Ok(response.body),
        status => Err(format!("{status}: {}", response.body)),
    }
}
