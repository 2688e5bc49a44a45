//! What a file is that is no WebAssembly, by its first bytes, and what to do instead.

/// Of a text, comments before its first word are read to here.
const LOOKED_AT: usize = 64 << 10;
/// Where an archive of tar says that it is one (POSIX pax, "ustar").
const TAR_MAGIC_AT: usize = 257;
/// The operating system that wasmtime writes into the files of ELF that it makes, and where.
const ELF_SYSTEM_AT: usize = 7;
const ELF_WASMTIME: u8 = 200;

const EMPTY: &str = "it is empty";
const TEXT: &str = "it is WebAssembly's text format; make a program of it with `wasm-tools parse \
                    FILE.wat -o FILE.wasm` or `wat2wasm FILE.wat`";
const CWASM: &str = "it is native code that wasmtime compiled (.cwasm), for one kind of machine and one \
                     version; take the .wasm that it was made of";
const NATIVE: &str = "it is a program for an operating system; compile it for wasm32-wasip1 or \
                      wasm32-wasip2";
const TAR: &str = "it is an archive (tar); take the .wasm file in it, or copy the image in it with \
                   `skopeo copy docker-archive:FILE docker://SERVER/NAME:TAG`";
const COMPRESSED: &str = "it is compressed; unpack it, and take the .wasm file in it";
const SCRIPT: &str = "it is a script; no interpreter is started for it";
const PAGE: &str = "it is a page in HTML, perhaps what came instead of a download";

/// First bytes, and what begins with them.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (b"\x7fELF", NATIVE),
    (b"MZ", NATIVE),
    (b"\xcf\xfa\xed\xfe", NATIVE),
    (b"\xca\xfe\xba\xbe", NATIVE),
    (b"\x1f\x8b", COMPRESSED),
    (b"\x28\xb5\x2f\xfd", COMPRESSED),
    (b"\xfd7zXZ\0", COMPRESSED),
    (b"BZh", COMPRESSED),
    (b"PK\x03\x04", COMPRESSED),
    (b"#!", SCRIPT),
];

/// What bytes are that do not begin like WebAssembly; `None` where nothing is known of them.
pub fn told(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some(EMPTY);
    }
    let begins = |with: &[u8]| bytes.starts_with(with);
    if begins(b"\x7fELF") && bytes.get(ELF_SYSTEM_AT) == Some(&ELF_WASMTIME) {
        return Some(CWASM);
    }
    if bytes.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar")) {
        return Some(TAR);
    }
    if let Some((_, what)) = BEGINNINGS.iter().find(|(first, _)| begins(first)) {
        return Some(what);
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LOOKED_AT)]);
    let text = without_comments(&text);
    let word = |word: &str| {
        let rest = text.strip_prefix(word);
        rest.is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
    };
    if word("(module") || word("(component") {
        return Some(TEXT);
    }
    let head = text.get(..14).unwrap_or(text).to_ascii_lowercase();
    (head.starts_with("<!doctype html") || head.starts_with("<html")).then_some(PAGE)
}

/// A text of WebAssembly from its first word on.
fn without_comments(text: &str) -> &str {
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        let after = match rest {
            line if line.starts_with(";;") => line.split_once('\n').map(|(_, after)| after),
            block if block.starts_with("(;") => block.split_once(";)").map(|(_, after)| after),
            _ => return rest,
        };
        rest = after.unwrap_or_default().trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_beginning() {
        let mut archive = vec![0; TAR_MAGIC_AT];
        archive.extend_from_slice(b"ustar  \0");
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"", Some(EMPTY)),
            (b"(module)", Some(TEXT)),
            ("\u{feff} ;; a comment\n (; another ;)\n(component $c)".as_bytes(), Some(TEXT)),
            (b"(modules)", None),
            (b";; nothing else", None),
            (b"\x7fELF\x02\x01\x01\xc8\0", Some(CWASM)),
            (b"\x7fELF\x02\x01\x01\0\0", Some(NATIVE)),
            (&archive, Some(TAR)),
            (b"\x1f\x8b\x08", Some(COMPRESSED)),
            (b"#!/bin/sh\n", Some(SCRIPT)),
            (b"\n<!DOCTYPE html><html>", Some(PAGE)),
            (b"hello", None),
            ("<\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}".as_bytes(), None),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(told(bytes), *wanted, "{:?}", String::from_utf8_lossy(bytes));
        }
    }
}
