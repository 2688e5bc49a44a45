//! Finds the program among the files of a layer: the one that an image's entrypoint names, or the only
//! one. Nothing is written to the disk. Whoever made the layer is not trusted: what it becomes when it
//! is unpacked is bounded, and only the program is kept in memory.

use std::path::{Component, Path};

use ::tar::EntryType;
use bytes::Bytes;

use super::layer::{Compression, Found, walk};
use super::unpack::{Form, UnpackError, refused};

/// What every WebAssembly module and component begins with.
const MAGIC: &[u8] = b"\0asm";
const EXTENSION: &str = "wasm";
/// Names in a refusal.
const MOST_NAMES: usize = 5;

/// The program in a layer, of at most `max_bytes` (blocking). `entry` is the path of the file that the
/// image runs; where it is no file of the layer, the only one that is called `….wasm` is meant.
///
/// # Errors
/// Says what is there instead.
pub fn find(
    form: &Form,
    layer: &Bytes,
    entry: Option<&str>,
    max_bytes: u64,
) -> Result<Bytes, UnpackError> {
    // Some tools call everything an archive.
    if layer.starts_with(MAGIC) {
        return Ok(layer.clone());
    }
    let Ok(compression) = form.archive() else {
        return refused("its layer is a file that does not begin like WebAssembly");
    };
    // As much again for its other files, and for headers.
    let most_bytes = max_bytes.saturating_mul(2);
    let path = choose(layer, compression, entry, most_bytes)?;
    let mut program = Vec::new();
    walk(layer, compression, most_bytes, |found, content| {
        if !is_file(found) || parts(&found.path) != parts(&path) {
            return Ok(());
        }
        if found.size > max_bytes {
            return refused(format!("{path:?} has more than {max_bytes} bytes"));
        }
        // The last of a name is what the archive has.
        program.clear();
        match content.read_to_end(&mut program) {
            Ok(_) => Ok(()),
            Err(error) => refused(format!("{path:?} cannot be read: {error}")),
        }
    })?;
    match program.starts_with(MAGIC) {
        true => Ok(program.into()),
        false => refused(format!("its file {path:?} does not begin like WebAssembly")),
    }
}

/// The path of the program.
fn choose(
    layer: &[u8],
    compression: Compression,
    entry: Option<&str>,
    most_bytes: u64,
) -> Result<String, UnpackError> {
    let mut named = None;
    let mut programs: Vec<String> = Vec::new();
    walk(layer, compression, most_bytes, |found, _| {
        let path = &found.path;
        if !is_file(found) {
            return Ok(());
        }
        if entry.is_some_and(|entry| parts(entry) == parts(path)) {
            named = Some(path.clone());
        }
        let is_program = Path::new(path).extension().is_some_and(|end| end == EXTENSION);
        let is_new = || programs.iter().all(|other| parts(other) != parts(path));
        if is_program && programs.len() < MOST_NAMES && is_new() {
            programs.push(path.clone());
        }
        Ok(())
    })?;
    if let Some(path) = named {
        return Ok(path);
    }
    match &programs[..] {
        [only] => Ok(only.clone()),
        [] => refused(format!(
            "its layer has no file *.{EXTENSION}{} (`wasmctl push FILE NAME:TAG` makes an image of a \
             program)",
            entry.map_or(String::new(), |entry| format!(", and none called {entry:?}"))
        )),
        some => refused(format!(
            "its layer has more than one program ({}), and its entrypoint names none of its files",
            some.join(", ")
        )),
    }
}

fn is_file(found: &Found) -> bool {
    matches!(found.kind, EntryType::Regular | EntryType::Continuous)
}

/// A path from the image's root, however it is written.
fn parts(path: &str) -> Vec<&str> {
    let parts = Path::new(path).components();
    parts
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            Component::ParentDir => Some(".."),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::unpack_tests::{FILE, LINK, layer};
    use super::super::{gzip, zstd};
    use super::*;

    const MOST: u64 = 1 << 20;
    const APP: &[u8] = b"\0asm the app";
    const OTHER: &[u8] = b"\0asm the other";

    fn found(form: &Form, bytes: Vec<u8>, entry: Option<&str>) -> Result<Bytes, String> {
        find(form, &bytes.into(), entry, MOST).map_err(|error| error.to_string())
    }

    #[test]
    fn the_entry_or_the_only_program_is_found() {
        let one = layer(&[("etc/motd", FILE, "", b"hello"), ("./app.wasm", FILE, "", APP)]);
        for entry in [None, Some("/app.wasm"), Some("/./app.wasm"), Some("/bin/wasmtime")] {
            assert_eq!(found(&Form::Tar, one.clone(), entry).as_deref(), Ok(APP), "{entry:?}");
        }
        assert_eq!(found(&Form::TarGzip, gzip::tests::stored(&one), None).as_deref(), Ok(APP));
        assert_eq!(found(&Form::TarZstd, zstd::tests::compressed(&one), None).as_deref(), Ok(APP));
        let two = layer(&[
            ("app.wasm", FILE, "", b"an older one"),
            ("bin/tool", FILE, "", OTHER),
            ("app.wasm", FILE, "", APP),
        ]);
        assert_eq!(found(&Form::Tar, two.clone(), Some("/bin/tool")).as_deref(), Ok(OTHER));
        assert_eq!(found(&Form::Tar, two, Some("app.wasm")).as_deref(), Ok(APP));
        // What is no archive, whatever its type says.
        assert_eq!(found(&Form::Tar, APP.to_vec(), None).as_deref(), Ok(APP));
        assert_eq!(found(&Form::File("x".into()), APP.to_vec(), None).as_deref(), Ok(APP));
    }

    #[test]
    fn what_is_there_instead_is_told() {
        let refused = |entries: &[_], entry| found(&Form::Tar, layer(entries), entry).unwrap_err();
        let shell = refused(&[("bin/sh", FILE, "", b"\x7fELF")], Some("/bin/sh"));
        assert!(shell.contains("\"bin/sh\" does not begin like WebAssembly"), "{shell}");
        let none = refused(&[("x", FILE, "", b"x"), ("a.wasm", LINK, "x", b"")], Some("/a.wasm"));
        assert!(none.contains("no file *.wasm, and none called \"/a.wasm\""), "{none}");
        assert!(none.contains("wasmctl push"), "{none}");
        let two = refused(&[("a.wasm", FILE, "", APP), ("b/c.wasm", FILE, "", OTHER)], None);
        assert!(two.contains("(a.wasm, b/c.wasm)"), "{two}");
        let text = found(&Form::File("x".into()), b"hello".to_vec(), None).unwrap_err();
        assert!(text.contains("does not begin like WebAssembly"), "{text}");
        assert!(found(&Form::TarGzip, b"hello".to_vec(), None).is_err());
        assert!(found(&Form::Tar, b"hello".to_vec(), None).is_err());
    }

    #[test]
    fn what_is_unpacked_is_bounded() {
        let large = vec![0; MOST as usize + 1];
        let program = layer(&[("app.wasm", FILE, "", &large)]);
        let error = found(&Form::Tar, program, None).unwrap_err();
        assert!(error.contains("more than"), "{error}");
        // Zeros compress a thousandfold, and what is no program counts, too.
        let zeros = vec![0; 2 * MOST as usize];
        let bomb = zstd::tests::compressed(&layer(&[("zeros", FILE, "", &zeros)]));
        let error = found(&Form::TarZstd, bomb, None).unwrap_err();
        assert!(error.contains("larger than an image's files may be"), "{error}");
    }
}
