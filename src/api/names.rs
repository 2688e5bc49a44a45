//! The syntax of names, label keys and values, ports and the like: each check answers with a list
//! of messages, empty for a good value, in the words of k8s.io/apimachinery/pkg/util/validation
//! (clients compare them).
//!
//! Knows nothing of objects or field paths; [`NameRule::check`] is what metadata validation calls.

use std::fmt;
use std::net::IpAddr;

use super::field::{Errors, Path};
use super::resource::NameRule;

/// Longest RFC 1123 or RFC 1035 label, in bytes.
pub const LABEL_MAX_BYTES: usize = 63;
/// Longest RFC 1123 subdomain, in bytes.
pub const SUBDOMAIN_MAX_BYTES: usize = 253;
/// Longest label value and longest name part of a label key, in bytes.
pub const LABEL_VALUE_MAX_BYTES: usize = 63;
/// Longest name of a container port, in bytes.
const PORT_NAME_MAX_BYTES: usize = 15;

const LABEL_FORM: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORM: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FORM: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const PATH_FORM: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
const QUALIFIED_FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
                              start and end with an alphanumeric character";

impl NameRule {
    /// What is wrong with `name`. With `prefix` the name is a `generateName`, to which characters
    /// are appended, so that a dash at its end is fine.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let name = if prefix && name.len() > 1 && name.ends_with('-') {
            masked = format!("{}a", &name[..name.len() - 1]);
            &masked
        } else {
            name
        };
        match self {
            NameRule::Subdomain => is_dns1123_subdomain(name),
            NameRule::Label => is_dns1123_label(name),
            NameRule::Label1035 => is_dns1035_label(name),
            NameRule::PathSegment => is_path_segment(name),
            NameRule::Address => is_canonical_address(name),
        }
    }
}

/// Adds one `Invalid value` error a message.
pub fn report(errors: &mut Errors, path: &Path, value: &str, messages: Vec<String>) {
    for message in messages {
        errors.invalid(path, value, &message);
    }
}

/// An address in the one form that it has.
fn is_canonical_address(value: &str) -> Vec<String> {
    match value.parse::<IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
        Ok(address) if address.to_string() != value => {
            vec![format!("must be in canonical form (\"{address}\")")]
        }
        Ok(_) => Vec::new(),
    }
}

/// The network of a CIDR: its address, without what the mask takes away, and the mask's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub bits: u32,
}

impl Network {
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        let address = masked(address, bits)?;
        Some(Network { address, bits })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, self.bits) == Some(self.address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// `None` where the address has not so many bits.
fn masked(address: IpAddr, bits: u32) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(bits)?).unwrap_or(0);
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(bits)?).unwrap_or(0);
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

/// A label of RFC 1123: Namespaces, container names.
pub fn is_dns1123_label(value: &str) -> Vec<String> {
    let mut messages = too_long(value, LABEL_MAX_BYTES);
    if !matches_label(value) {
        if value.split('.').all(matches_label) {
            messages.push("must not contain dots".into());
        } else {
            let rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
                        characters or '-', and must start and end with an alphanumeric character";
            messages.push(form_error(rule, LABEL_FORM, &["my-name", "123-abc"]));
        }
    }
    messages
}

/// A subdomain of RFC 1123: most objects' names.
pub fn is_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut messages = too_long(value, SUBDOMAIN_MAX_BYTES);
    if !value.split('.').all(matches_label) {
        let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                    characters, '-' or '.', and must start and end with an alphanumeric character";
        messages.push(form_error(rule, SUBDOMAIN_FORM, &["example.com"]));
    }
    messages
}

/// A label of RFC 1035, which begins with a letter: Services.
pub fn is_dns1035_label(value: &str) -> Vec<String> {
    let mut messages = too_long(value, LABEL_MAX_BYTES);
    if !(matches_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase())) {
        let rule = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
                    start with an alphabetic character, and end with an alphanumeric character";
        messages.push(form_error(rule, LABEL_1035_FORM, &["my-name", "abc-123"]));
    }
    messages
}

/// A name that is safe as one segment of a URL's path.
pub fn is_path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    let bad = ['/', '%'].into_iter().filter(|c| value.contains(*c));
    bad.map(|c| format!("may not contain '{c}'")).collect()
}

/// A label key, annotation key, finalizer or extended resource: an optional subdomain and `/`,
/// then a name.
pub fn is_qualified_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".into());
            }
            let wrong = if prefix.is_empty() { Vec::new() } else { is_dns1123_subdomain(prefix) };
            messages.extend(wrong.into_iter().map(|m| format!("prefix part {m}")));
            name
        }
        _ => {
            let form = qualified_form_error();
            let end = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {form} {end}")];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".into());
    }
    messages.extend(too_long(name, LABEL_VALUE_MAX_BYTES).iter().map(|m| format!("name part {m}")));
    if !matches_qualified(name) {
        messages.push(format!("name part {}", qualified_form_error()));
    }
    messages
}

/// A label's value; empty is fine.
pub fn is_label_value(value: &str) -> Vec<String> {
    let mut messages = too_long(value, LABEL_VALUE_MAX_BYTES);
    if !value.is_empty() && !matches_qualified(value) {
        let rule = format!(
            "a valid label must be an empty string or consist of {}",
            &QUALIFIED_RULE["must consist of ".len()..]
        );
        let form = format!("({QUALIFIED_FORM})?");
        messages.push(form_error(&rule, &form, &["MyValue", "my_value", "12345"]));
    }
    messages
}

/// A key of a ConfigMap or Secret: it becomes a file's name.
pub fn is_config_map_key(value: &str) -> Vec<String> {
    let mut messages = too_long(value, SUBDOMAIN_MAX_BYTES);
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.is_empty() || !value.chars().all(good) {
        let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        let examples = ["key.name", "KEY_NAME", "key-name"];
        messages.push(form_error(rule, "[-._a-zA-Z0-9]+", &examples));
    }
    match value {
        "." | ".." => messages.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => messages.push("must not start with '..'".into()),
        _ => {}
    }
    messages
}

/// The name of an environment variable (the relaxed rule, on since 1.32).
pub fn is_env_var_name(value: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if value.is_empty() {
        messages.push("environment variable name must be non-empty".into());
    }
    if !value.chars().all(|c| matches!(c, ' '..='~') && c != '=') {
        let rule = "a valid environment variable name must consist only of printable ASCII \
                    characters other than '='";
        messages.push(rule.into());
    }
    messages
}

/// The name of a container's port (RFC 6335, lower case).
pub fn is_port_name(value: &str) -> Vec<String> {
    let mut messages = too_long(value, PORT_NAME_MAX_BYTES);
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if value.is_empty() || !value.chars().all(good) {
        let rule = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
        messages.push(rule.into());
    }
    if !value.contains(|c: char| c.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        messages.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        messages.push("must not begin or end with a hyphen".into());
    }
    messages
}

/// The number of a port.
pub fn is_port_number(port: i32) -> Vec<String> {
    match port {
        1..=65535 => Vec::new(),
        _ => vec!["must be between 1 and 65535, inclusive".into()],
    }
}

/// `*.example.com`: a wildcard for one label, before a subdomain.
pub fn is_wildcard_subdomain(value: &str) -> Vec<String> {
    let mut messages = too_long(value, SUBDOMAIN_MAX_BYTES);
    if !value.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(matches_label)) {
        let rule = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
                    subdomain, which must consist of lower case alphanumeric characters, '-' or \
                    '.' and end with an alphanumeric character";
        let form = format!("\\*\\.{SUBDOMAIN_FORM}");
        messages.push(form_error(rule, &form, &["*.example.com"]));
    }
    messages
}

/// `example.com/path`: a domain, then a path. Which part is wrong, and what is wrong with it.
pub fn domain_prefixed_path_errors(value: &str) -> Vec<(&str, String)> {
    let (domain, path) = match value.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => (domain, path),
        _ => {
            let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            return vec![(value, text.into())];
        }
    };
    let mut messages: Vec<(&str, String)> =
        is_dns1123_subdomain(domain).into_iter().map(|message| (domain, message)).collect();
    let good = |c: char| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,;=:%@".contains(c);
    if !path.chars().all(good) {
        let text = format!("Invalid path (regex used for validation is '{PATH_FORM}')");
        messages.push((path, text));
    }
    messages
}

/// `25%` and its like.
pub fn is_percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![form_error(rule, "[0-9]+%", &["1%", "93%"])]
}

/// The reason of a condition.
pub fn is_condition_reason(value: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.ends_with(word)
        && value.chars().all(|c| word(c) || matches!(c, ',' | ':'))
    {
        return Vec::new();
    }
    let rule = "a condition reason must start with alphabetic character, optionally followed by a \
                string of alphanumeric characters or '_,:', and must end with an alphanumeric \
                character or '_'";
    let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
    vec![form_error(rule, "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", &examples)]
}

/// The name of an HTTP header.
pub fn is_http_header_name(value: &str) -> Vec<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !value.is_empty() && value.chars().all(good) {
        return Vec::new();
    }
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![form_error(rule, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

fn matches_label(value: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    value.starts_with(good) && value.ends_with(good) && value.chars().all(|c| good(c) || c == '-')
}

fn matches_qualified(value: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric();
    value.starts_with(good)
        && value.ends_with(good)
        && value.chars().all(|c| good(c) || matches!(c, '-' | '_' | '.'))
}

fn qualified_form_error() -> String {
    form_error(QUALIFIED_RULE, QUALIFIED_FORM, &["MyName", "my.name", "123-abc"])
}

fn too_long(value: &str, max_bytes: usize) -> Vec<String> {
    if value.len() <= max_bytes {
        return Vec::new();
    }
    vec![format!("must be no more than {max_bytes} bytes")]
}

/// Upstream's text, with the odd spaces that its own loop leaves between examples.
fn form_error(rule: &str, form: &str, examples: &[&str]) -> String {
    let list: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{form}')", list.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses_as_upstream() {
        type Check = fn(&str) -> Vec<String>;
        let rows: &[(Check, &[&str], &[&str])] = &[
            (is_dns1123_label, &["a", "0-1", "a-b"], &["", "-a", "a-", "A", "a_b", "a.b"]),
            (is_dns1123_subdomain, &["a", "a.b", "1.2"], &["", "a..b", ".a", "a.", "A.b", "a.-b"]),
            (is_dns1035_label, &["a", "a-1"], &["", "1a", "a.b", "a-"]),
            (is_qualified_name, &["a", "A_b.c", "x.y/Z"], &["", "/a", "a/", "a/b/c", "-a", "X/y"]),
            (is_label_value, &["", "A_b.c"], &["-a", "a-", "a b"]),
            (is_config_map_key, &["a", ".a", "A_b-c.d"], &["", ".", "..", "..a", "a/b", "a b"]),
            (is_env_var_name, &["A", "a.b-c", "1 2"], &["", "a=b", "ä"]),
            (
                is_port_name,
                &["http", "a-1"],
                &["", "1", "a--b", "-a", "a-", "A", "abcdefghijklmnop"],
            ),
            (is_percent, &["0%", "25%"], &["", "%", "25", "x%"]),
            (is_http_header_name, &["X-A"], &["", "a b"]),
            (is_condition_reason, &["A", "A1,b:c_"], &["", "1", "A,", "a b"]),
            (is_wildcard_subdomain, &["*.a", "*.a.b"], &["*", "a.*", "*.", "*.A", "a.b"]),
            (
                |value| {
                    domain_prefixed_path_errors(value).into_iter().map(|(_, text)| text).collect()
                },
                &["a.b/c", "a/b/c"],
                &["", "a", "/a", "a/", "A/b", "a/b c"],
            ),
            (is_canonical_address, &["10.0.0.1", "::1"], &["", "010.0.0.1", "::0:1", "a"]),
            (is_path_segment, &["system:x"], &[".", "..", "a/b", "a%b"]),
        ];
        for (check, good, bad) in rows {
            for value in *good {
                assert_eq!(check(value), Vec::<String>::new(), "{value:?}");
            }
            for value in *bad {
                assert!(!check(value).is_empty(), "{value:?} must be refused");
            }
        }
        assert!(is_dns1123_label(&"a".repeat(64)) == ["must be no more than 63 bytes"]);
    }

    #[test]
    fn networks_hold_addresses() {
        let network = Network::parse("10.1.2.3/16").unwrap();
        assert_eq!(network.to_string(), "10.1.0.0/16");
        assert!(network.contains("10.1.9.9".parse().unwrap()));
        assert!(!network.contains("10.2.0.0".parse().unwrap()));
        assert!(!network.contains("::1".parse().unwrap()));
        assert_eq!(Network::parse("1.2.3.4/0").unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(Network::parse("2001:db8::1/64").unwrap().to_string(), "2001:db8::/64");
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129", "10.0.0.0/-1"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn words_are_upstreams() {
        assert_eq!(
            is_dns1123_label("A"),
            ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
              '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
              '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert_eq!(is_dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            is_label_value("-"),
            ["a valid label must be an empty string or consist of alphanumeric characters, '-', \
              '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  \
              or 'my_value',  or '12345', regex used for validation is \
              '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"]
        );
    }

    #[test]
    fn a_generate_name_may_end_with_a_dash() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("web-", false).is_empty());
    }
}
