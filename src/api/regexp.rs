//! Regular expressions as Kubernetes writes them, in RE2's syntax (<https://github.com/google/re2/wiki/Syntax>),
//! made into those of the crate `regex`, which matches them in linear time too.
//!
//! The two differ little: in RE2 `\d`, `\w`, `\s` and `\b` are ASCII's, a class is a plain list (no
//! classes in it, no `&&`), a brace that counts nothing is a brace, `\Q…\E` quotes, and a backslash
//! makes any sign itself.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// How deep groups may nest.
const MAX_NESTING: u32 = 50;
/// The most that something may be repeated, in RE2 too.
const MAX_REPEAT: u32 = 1_000;

/// A pattern whose program has at most so many bytes.
///
/// # Errors
/// What is wrong with it, for people.
pub fn compile(pattern: &str, max_bytes: usize) -> Result<Regex, String> {
    let built = RegexBuilder::new(&translated(pattern)?)
        .size_limit(max_bytes)
        .dfa_size_limit(max_bytes)
        .nest_limit(MAX_NESTING)
        .build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        last.trim().trim_start_matches("error: ").to_string()
    })
}

/// The pattern in the other syntax.
fn translated(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next_if_eq(&'Q').is_some() => quoted(&mut rest, &mut out),
            '\\' => escaped(&mut rest, false, &mut out)?,
            '[' => class(&mut rest, &mut out)?,
            '{' => braces(&mut rest, &mut out)?,
            '(' => {
                out.push('(');
                flags(&mut rest, &mut out)?;
            }
            '}' | ']' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What stands before `\E`, or all that is left.
fn quoted(rest: &mut Peekable<Chars>, out: &mut String) {
    let mut text = String::new();
    while let Some(c) = rest.next() {
        if c == '\\' && rest.next_if_eq(&'E').is_some() {
            break;
        }
        text.push(c);
    }
    out.push_str(&regex::escape(&text));
}

/// What follows a backslash.
fn escaped(rest: &mut Peekable<Chars>, in_class: bool, out: &mut String) -> Result<(), String> {
    let Some(c) = rest.next() else {
        return Err("trailing backslash at end of expression".into());
    };
    let text = match c {
        'd' => r"[0-9]",
        'D' => r"[^0-9]",
        'w' => r"[0-9A-Za-z_]",
        'W' => r"[^0-9A-Za-z_]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        'b' if !in_class => r"(?-u:\b)",
        'B' if !in_class => r"(?-u:\B)",
        'A' | 'z' if !in_class => {
            out.extend(['\\', c]);
            return Ok(());
        }
        'a' | 'f' | 't' | 'n' | 'r' | 'v' => {
            out.extend(['\\', c]);
            return Ok(());
        }
        'x' | 'p' | 'P' => {
            out.extend(['\\', c]);
            if rest.peek() == Some(&'{') {
                out.extend(rest.by_ref().take_while(|c| *c != '}'));
                out.push('}');
            }
            return Ok(());
        }
        '0'..='7' => return octal(c, rest, out),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => {
            out.push_str(&literal(c));
            return Ok(());
        }
        c => return Err(format!("invalid escape sequence: `\\{c}`")),
    };
    out.push_str(text);
    Ok(())
}

/// `\0`, `\12`, `\123`; a single digit but 0 would be a back-reference, which there is not.
fn octal(first: char, rest: &mut Peekable<Chars>, out: &mut String) -> Result<(), String> {
    let mut value = first.to_digit(8).unwrap_or(0);
    let more = rest.peek().is_some_and(|c| c.is_digit(8));
    if first != '0' && !more {
        return Err(format!("invalid escape sequence: `\\{first}`"));
    }
    for _ in 0..2 {
        let Some(digit) = rest.peek().and_then(|c| c.to_digit(8)) else { break };
        value = value * 8 + digit;
        rest.next();
    }
    out.push_str(&format!("\\x{{{value:x}}}"));
    Ok(())
}

/// A sign that means itself.
fn literal(c: char) -> String {
    match c {
        c if c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii() => c.to_string(),
        c => format!("\\x{{{:x}}}", u32::from(c)),
    }
}

/// `[…]`.
fn class(rest: &mut Peekable<Chars>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut first = true;
    loop {
        let Some(c) = rest.next() else { return Err("missing closing ]".into()) };
        let is_set = match c {
            ']' if !first => break,
            '[' if rest.peek() == Some(&':') => named(rest, out),
            c => sign(c, rest, out)?,
        };
        first = false;
        // A hyphen before the end is itself, and so is one behind a set.
        let mut ahead = rest.clone();
        let is_range = ahead.next() == Some('-') && !matches!(ahead.next(), None | Some(']'));
        if is_range && !is_set {
            rest.next();
            out.push('-');
            let end = rest.next().unwrap_or_default();
            sign(end, rest, out)?;
        }
    }
    out.push(']');
    Ok(())
}

/// One sign of a class; whether it is a set of them.
fn sign(c: char, rest: &mut Peekable<Chars>, out: &mut String) -> Result<bool, String> {
    if c != '\\' {
        out.push_str(&literal(c));
        return Ok(false);
    }
    let is_set = matches!(rest.peek(), Some('d' | 'D' | 'w' | 'W' | 's' | 'S' | 'p' | 'P'));
    escaped(rest, true, out)?;
    Ok(is_set)
}

/// `[:alpha:]`, or an opening bracket; whether it is the former.
fn named(rest: &mut Peekable<Chars>, out: &mut String) -> bool {
    let mut ahead = rest.clone();
    ahead.next();
    let name: String = ahead.by_ref().take_while(|c| *c != ':').take(8).collect();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '^';
    let is_named = !name.is_empty() && name.chars().all(is_name) && ahead.next() == Some(']');
    if is_named {
        out.push_str(&format!("[:{name}:]"));
        *rest = ahead;
    } else {
        out.push_str(&literal('['));
    }
    is_named
}

/// `{2}`, `{2,}`, `{2,3}`, or a brace.
fn braces(rest: &mut Peekable<Chars>, out: &mut String) -> Result<(), String> {
    let mut ahead = rest.clone();
    let inner: String = ahead.by_ref().take_while(|c| *c != '}').take(12).collect();
    let closed = rest.clone().nth(inner.chars().count()) == Some('}');
    let (least, most) = inner.split_once(',').unwrap_or((&inner, ""));
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    if !closed || !is_number(least) || !(most.is_empty() || is_number(most)) {
        out.push_str(&literal('{'));
        return Ok(());
    }
    let too_many =
        |text: &str| !text.is_empty() && text.parse().map_or(true, |n: u32| n > MAX_REPEAT);
    if too_many(least) || too_many(most) {
        return Err(format!("invalid repeat count: `{{{inner}}}`"));
    }
    out.push_str(&format!("{{{inner}}}"));
    *rest = ahead;
    Ok(())
}

/// What follows `(?`: a name, or flags, of which the other syntax has more.
fn flags(rest: &mut Peekable<Chars>, out: &mut String) -> Result<(), String> {
    if rest.peek() != Some(&'?') {
        return Ok(());
    }
    let mut ahead = rest.clone();
    ahead.next();
    let is_name = matches!(ahead.peek(), Some('P' | '<'));
    for c in ahead {
        match c {
            ':' | ')' => break,
            'i' | 'm' | 's' | 'U' | '-' => {}
            _ if is_name => break,
            _ => return Err("invalid or unsupported Perl syntax: `(?`".into()),
        }
    }
    out.push('?');
    rest.next();
    if is_name {
        // Names of groups may have signs that are something else outside.
        for c in rest.by_ref() {
            out.push(c);
            if c == '>' {
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_in_re2() {
        // Pattern, what it finds, what it does not.
        for (pattern, yes, no) in [
            (r"^\d+$", "12", "\u{661}"),
            (r"^\w+$", "aZ_9", "é"),
            (r"^\W$", "é", "a"),
            (r"^\s$", "\t", "\u{b}"),
            (r"^[^\s\d]+$", "a\u{a0}", "a1"),
            (r"\bé", "aé", "é"),
            (r"^[[:alpha:]_-]+$", "a-b_", "1"),
            (r"^[[]$", "[", "a"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[--~]+$", "-.a~", ","),
            (r"^[]a]+$", "]a", "["),
            (r"^[+--]+$", "+,-", "."),
            (r"^[\d-z]+$", "1-z", "a"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^{a}$", "{a}", "a"),
            (r"^a{2,3}$", "aaa", "aaaa"),
            (r"^\<\-\_\/$", "<-_/", "-"),
            (r"^\Qa.b\E.$", "a.bc", "axbc"),
            (r"^\x41\x{e9}\101$", "AéA", "A"),
            (r"^(?P<n>a)(?i:b)$", "aB", "AB"),
            (r"^(?<n>a)$", "a", "b"),
            (r"^\p{Lu}\pN$", "É9", "é9"),
            (r"^.$", "é", "ab"),
            (r"^a\z", "a", "a\n"),
            (r"^[^a]$", "é", "a"),
            (r"]}", "]}", "]"),
            (r"^[\]\\^-]+$", "]\\^-", "a"),
        ] {
            let found = compile(pattern, 1 << 18).unwrap_or_else(|why| panic!("{pattern}: {why}"));
            assert!(found.is_match(yes), "{pattern} {yes:?}");
            assert!(!found.is_match(no), "{pattern} {no:?}");
        }
        assert!(compile(r"^a\Bé", 1 << 18).unwrap().find("aé").is_none());
        for pattern in [
            "(",
            "[a",
            r"\",
            r"\y",
            r"\1",
            "(?x)a",
            "(?u:a)",
            "a{1001}",
            "(((((a{1000}){1000}))))",
            "*",
            "a**b\\",
        ] {
            assert!(compile(pattern, 1 << 18).is_err(), "{pattern}");
        }
    }
}
