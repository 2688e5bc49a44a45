//! URLs (k8s.io/apiserver/pkg/cel/library/urls.go, over Go's `url.ParseRequestURI`): an absolute URI
//! or an absolute path.

use std::any::Any;
use std::collections::BTreeMap;

use crate::api::cel::eval::Error;
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::{Key, Opaque, Value};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// With the port.
    host: String,
    /// As escaped as it has to be.
    path: String,
    query: String,
}

const TYPE: &str = "kubernetes.URL";

impl Opaque for Url {
    fn type_name(&self) -> &'static str {
        TYPE
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

macro_rules! getter {
    ($name:literal, $get:expr) => {
        row(concat!("(kubernetes.URL).", $name, "() -> string"), Cost::One, |_, args| {
            let get: fn(&Url) -> &str = $get;
            let url = args.first().and_then(Value::is::<Url>);
            let url = url.ok_or_else(crate::api::cel::eval::no_overload)?;
            Ok(Value::string(get(url)))
        })
    };
}

pub fn rows() -> Vec<Row> {
    vec![
        row(
            "url(string) -> kubernetes.URL",
            Cost::Text,
            native!([Value::String(a)] => {
                Url::parse(a).map(Value::opaque).map_err(Error::new)
            }),
        ),
        row(
            "isURL(string) -> bool",
            Cost::Text,
            native!([Value::String(a)] => {
                Ok(Value::Bool(Url::parse(a).is_ok()))
            }),
        ),
        getter!("getScheme", |url| &url.scheme),
        getter!("getHost", |url| &url.host),
        getter!("getHostname", |url| host_and_port(&url.host).0),
        getter!("getPort", |url| host_and_port(&url.host).1),
        getter!("getEscapedPath", |url| &url.path),
        row("(kubernetes.URL).getQuery() -> map<string, list<string>>", Cost::Own, |run, args| {
            let url = args.first().and_then(Value::is::<Url>);
            let url = url.ok_or_else(crate::api::cel::eval::no_overload)?;
            run.meter.traverse(1 + url.query.len())?;
            Ok(url.query())
        }),
    ]
}

/// `example.com:80` in two; brackets of IPv6 addresses are taken away.
fn host_and_port(host: &str) -> (&str, &str) {
    let (name, port) = match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => (&host[..at], &host[at + 1..]),
        _ => (host, ""),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    (bare.unwrap_or(name), port)
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, String> {
        let shown: String = text.chars().take(200).collect();
        let bad = |why: &str| {
            format!("URL parse error during conversion from string: parse {shown:?}: {why}")
        };
        if text.is_empty() {
            return Err(bad("empty url"));
        }
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err(bad("net/url: invalid control character in URL"));
        }
        let (scheme, rest) = split_scheme(text).map_err(bad)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Url { scheme: scheme.to_lowercase(), query: query.into(), ..Url::default() };
        if !rest.starts_with('/') {
            // `mailto:x` has neither host nor path.
            let why = "invalid URI for request";
            return if scheme.is_empty() { Err(bad(why)) } else { Ok(url) };
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            let end = authority.find('/').unwrap_or(authority.len());
            path = &authority[end..];
            let host = authority[..end].rsplit_once('@').map_or(&authority[..end], |(_, h)| h);
            check_host(host).map_err(|why| bad(&why))?;
            url.host = host.into();
        }
        let decoded = unescape(path, false).ok_or_else(|| bad("invalid URL escape"))?;
        url.path = if path.bytes().all(may_stand) { path.into() } else { escape(&decoded) };
        Ok(url)
    }

    fn query(&self) -> Value {
        let mut found: BTreeMap<Key, Vec<Value>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |part| unescape(part, true).and_then(|bytes| String::from_utf8(bytes).ok());
            if let (Some(key), Some(value)) = (text(key), text(value)) {
                found.entry(Key::String(key.into())).or_default().push(Value::string(value));
            }
        }
        Value::map(found.into_iter().map(|(key, values)| (key, Value::list(values))).collect())
    }
}

fn split_scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (index, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if index > 0 => {}
            ':' if index == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let is_port =
        port.is_empty() || port.starts_with(':') && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_port {
        return Err(format!("invalid port {port:?} after host"));
    }
    let is_bad =
        |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._~!$&'()*+,;=:[]%".contains(c);
    match host.chars().find(|c| is_bad(*c)) {
        Some(c) => Err(format!("invalid character {:?} in host name", c.to_string())),
        None => Ok(()),
    }
}

/// Whether a byte of a path need not be escaped.
fn may_stand(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte)
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(b) => {
                out.push(char::from(*b))
            }
            b => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

fn unescape(text: &str, plus_is_space: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            b'+' if plus_is_space => b' ',
            byte => byte,
        });
    }
    Some(out)
}
