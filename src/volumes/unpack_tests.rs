//! What comes out of layers, and what does not.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use ::tar::{Builder, EntryType, Header};

use super::gzip::tests::stored;
use super::unpack::*;
use super::zstd::tests::compressed;

/// Path, type, what a link leads to, content.
pub(super) type Entry<'a> = (&'a str, EntryType, &'a str, &'a [u8]);

/// A layer of entries.
pub(super) fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (path, kind, link, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_size(content.len() as u64);
        // The builder refuses what is to be refused here.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
pub(super) const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

fn unpack(dir: &Path, layers: &[(Form, Vec<u8>)]) -> Result<(), UnpackError> {
    let mut unpacker = Unpacker::open(dir)?;
    for (form, bytes) in layers {
        unpacker.add(form, bytes)?;
    }
    unpacker.finish()
}

fn names(dir: &Path) -> Vec<String> {
    let list = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        list.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn layers_lie_over_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let lower = layer(&[
        ("./", DIR, "", b""),
        ("etc/", DIR, "", b""),
        ("etc/a", FILE, "", b"old"),
        ("etc/b", FILE, "", b"b"),
        ("opt/x/y", FILE, "", b"y"),
        ("usr/lib/z", FILE, "", b"z"),
        ("lib", LINK, "/usr/lib", b""),
        ("gone", DIR, "", b""),
    ]);
    let upper = layer(&[
        ("etc/a", FILE, "", b"new"),
        ("etc/.wh.b", FILE, "", b""),
        ("opt/new", FILE, "", b"n"),
        ("opt/.wh..wh..opq", FILE, "", b""),
        ("lib/more", FILE, "", b"m"),
        ("again", HARD, "etc/a", b""),
        ("gone", FILE, "", b"a file now"),
    ]);
    let file = (Form::File("data/model.bin".into()), b"weights".to_vec());
    let again = (Form::TarZstd, compressed(&upper));
    let layers = [(Form::Tar, lower), (Form::TarGzip, stored(&upper)), again, file];
    unpack(dir.path(), &layers).unwrap();
    let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    assert_eq!(names(dir.path()), ["again", "data", "etc", "gone", "lib", "opt", "usr"]);
    assert_eq!((names(&dir.path().join("etc")), read("etc/a")), (vec!["a".into()], "new".into()));
    assert_eq!(names(&dir.path().join("opt")), ["new"]);
    assert_eq!(names(&dir.path().join("usr/lib")), ["more", "z"]);
    assert_eq!(fs::read_link(dir.path().join("lib")).unwrap(), Path::new("usr/lib"));
    assert_eq!(
        (read("again"), read("gone"), read("data/model.bin").len()),
        ("new".into(), "a file now".into(), 7)
    );
    let meta = fs::metadata(dir.path().join("etc/a")).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.nlink()), (0o755, 2));
}

#[test]
fn long_names_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    let record = format!("path=p{}/q\n", "x".repeat(110));
    let record = format!("{} {record}", record.len() + 4);
    let mut pax = Header::new_ustar();
    pax.set_entry_type(EntryType::XHeader);
    pax.set_size(record.len() as u64);
    pax.set_cksum();
    builder.append(&pax, record.as_bytes()).unwrap();
    let mut header = Header::new_ustar();
    header.set_path("short").unwrap();
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"y"[..]).unwrap();
    let mut archive = builder.into_inner().unwrap();
    archive.flush().unwrap();
    unpack(dir.path(), &[(Form::Tar, archive)]).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(long)).unwrap(), "x");
    let pax = dir.path().join(format!("p{}/q", "x".repeat(110)));
    assert_eq!(fs::read_to_string(pax).unwrap(), "y");
}

#[test]
fn nothing_comes_out_of_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), "s").unwrap();
    let inside = |case: usize| {
        let inside = dir.path().join(format!("in{case}"));
        fs::create_dir(&inside).unwrap();
        inside
    };
    let cases: &[&[Entry]] = &[
        &[("../made", FILE, "", b"x")],
        &[("/etc/made", FILE, "", b"x")],
        &[("a/../../made", FILE, "", b"x")],
        &[("up", LINK, "..", b"")],
        &[("a/up", LINK, "../../secret", b"")],
        &[("a", LINK, "/../secret", b"")],
        // Out by two links, each of which stays inside by itself.
        &[("a/b/c", DIR, "", b""), ("l", LINK, "a/b/c", b""), ("m", LINK, "l/../../../..", b"")],
        &[
            ("a/b", DIR, "", b""),
            ("a/b/l", LINK, "../..", b""),
            ("a/b/m", LINK, "l/..", b""),
            ("a/b/m/made", FILE, "", b"x"),
        ],
        &[("hard", HARD, "../secret", b"")],
        &[("hard", HARD, "missing", b"")],
        &[("d", DIR, "", b""), ("hard", HARD, "d", b"")],
        &[("null", EntryType::Char, "", b"")],
        &[("disk", EntryType::Block, "", b"")],
        &[("pipe", EntryType::Fifo, "", b"")],
        &[("sparse", EntryType::GNUSparse, "", b"")],
        &[("f", FILE, "", b""), ("f/x", FILE, "", b"x")],
        &[("loop", LINK, "loop", b""), ("loop/x", FILE, "", b"x")],
    ];
    for (case, entries) in cases.iter().enumerate() {
        let result = unpack(&inside(case), &[(Form::Tar, layer(entries))]);
        assert!(matches!(result, Err(UnpackError::Refused(_))), "{entries:?}: {result:?}");
    }
    for name in ["../made", "/made", "a/../../made"] {
        let result = unpack(dir.path(), &[(Form::File(name.into()), b"x".to_vec())]);
        assert!(matches!(result, Err(UnpackError::Refused(_))), "{name}");
    }
    assert_eq!(fs::read_to_string(dir.path().join("secret")).unwrap(), "s");
    assert!(!dir.path().join("made").exists());
}

#[test]
fn layers_are_bounded_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let files = layer(&[("a", FILE, "", b"12345"), ("b", FILE, "", b"12345")]);
    let add = |entries, bytes, layer: &[u8]| {
        let mut unpacker = Unpacker::bounded(dir.path(), entries, bytes).unwrap();
        unpacker.add(&Form::Tar, layer).map_err(|error| error.to_string())
    };
    assert_eq!(add(2, 10, &files), Ok(()));
    assert!(add(1, 10, &files).unwrap_err().contains("entries"));
    assert!(add(2, 9, &files).unwrap_err().contains("bytes"));
    assert!(add(2, 10, &files[..600]).is_err());
    assert!(add(2, 10, b"#!/bin/sh, and no archive at all").is_err());
    // A header that says of the next entry more than anybody needs.
    let long = vec![b'n'; 70_000];
    let name = layer(&[("x", EntryType::GNULongName, "", &long), ("a", FILE, "", b"")]);
    assert!(add(10, 100_000, &name).unwrap_err().contains("header"));
    // Skipped content counts too.
    let filler = layer(&[("x", EntryType::XGlobalHeader, "", &vec![0; 100_000])]);
    assert!(add(1, 10, &filler).unwrap_err().contains("larger"));
    // And so does what is tightly packed.
    let bomb = compressed(&layer(&[("x", EntryType::XGlobalHeader, "", &vec![0; 10_000_000])]));
    assert!(bomb.len() < 100_000);
    let mut unpacker = Unpacker::bounded(dir.path(), 10, 10).unwrap();
    let error = unpacker.add(&Form::TarZstd, &bomb).unwrap_err();
    assert!(error.to_string().contains("larger"), "{error}");
}

/// `.wh...` hides `..`: what is above the volume stays.
#[test]
fn whiteouts_hide_nothing_above_them() {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("kept"), "kept").unwrap();
    for name in [".wh...", ".wh..", ".wh.", "a/.wh..."] {
        let dir = outer.path().join("volume");
        fs::create_dir(&dir).unwrap();
        let lower = layer(&[("a/b", FILE, "", b"b")]);
        let upper = layer(&[(name, FILE, "", b"")]);
        let error = unpack(&dir, &[(Form::Tar, lower), (Form::Tar, upper)]).unwrap_err();
        assert!(matches!(error, UnpackError::Refused(_)), "{name}: {error}");
        assert_eq!(names(outer.path()), ["kept", "volume"], "{name}");
        assert_eq!(names(&dir.join("a")), ["b"], "{name}");
        fs::remove_dir_all(dir).unwrap();
    }
}
