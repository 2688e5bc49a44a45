//! What comes of archives with hard links, honest and hostile ones.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::runtime::Mount;

/// Name, type, what a link leads to, content.
type Row<'a> = (&'a str, EntryType, &'a str, &'a str);

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

fn archive(rows: &[Row]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, kind, link, content) in rows {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        // The builder refuses what is to be refused here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A container with `/data`, a directory of a volume; `/ro`, which is read only; and `/other`. What
/// is beside the directory is no affair of its container's.
struct Scene {
    dir: tempfile::TempDir,
    files: Files,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    for name in ["volume/sub", "ro", "other"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in ["secret", "volume/secret", "ro/file", "other/file"] {
        fs::write(dir.path().join(name), "kept").unwrap();
    }
    let mount = |host: &str, sub: &str, guest: &str, read_only| Mount {
        host_path: dir.path().join(host),
        sub_path: sub.into(),
        guest_path: guest.into(),
        read_only,
    };
    let mounts = [
        mount("volume", "sub", "/data", false),
        mount("ro", "", "/ro", true),
        mount("other", "", "/other", false),
    ];
    Scene { files: Files { mounts: mounts.into() }, dir }
}

impl Scene {
    /// What is complained of.
    fn unpack(&self, directory: &str, rows: &[Row]) -> Vec<String> {
        let mut complaints = Vec::new();
        let bytes = archive(rows);
        unpack_all(&self.files, directory, &bytes[..], &mut complaints).unwrap();
        complaints
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("volume/sub").join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self, name: &str) -> u64 {
        fs::symlink_metadata(self.path(name)).unwrap().nlink()
    }
}

#[test]
fn a_file_gets_its_other_names() {
    let scene = scene();
    let rows: &[Row] = &[
        ("d/a", FILE, "", "one"),
        ("d/b", HARD, "d/a", ""),
        ("c", HARD, "./d/a", ""),
        // As GNU tar packs what it was told of twice.
        ("d/a", HARD, "d/a", ""),
    ];
    // And again in the place of what is there.
    for _ in 0..2 {
        assert_eq!(scene.unpack("/data", rows), [""; 0]);
        assert_eq!(["d/a", "d/b", "c"].map(|name| scene.read(name)), ["one"; 3]);
        assert_eq!(scene.names("d/a"), 3);
    }
    // From the root, a link's names are the whole ones, as the files' are.
    assert_eq!(scene.unpack("/", &[("data/e", HARD, "data/c", "")]), [""; 0]);
    assert_eq!(scene.unpack("/", &[("/data/f", HARD, "/data/c", "")]), [""; 0]);
    assert_eq!(scene.names("f"), 5);
    // A link inside may be on the way, and other links and files give way.
    symlink("d", scene.path("way")).unwrap();
    symlink("nowhere", scene.path("old")).unwrap();
    let rows = [("old", HARD, "way/a", ""), ("x", FILE, "", "x"), ("x", HARD, "c", "")];
    assert_eq!(scene.unpack("/data", &rows), [""; 0]);
    assert_eq!((scene.read("x").as_str(), scene.names("old")), ("one", 7));
}

#[test]
fn a_file_that_comes_later_changes_no_other() {
    let scene = scene();
    let linked = [("a", FILE, "", "one"), ("b", HARD, "a", "")];
    assert_eq!(scene.unpack("/data", &linked), [""; 0]);
    assert_eq!(scene.unpack("/data", &[("b", FILE, "", "two")]), [""; 0]);
    assert_eq!((scene.read("a").as_str(), scene.read("b").as_str()), ("one", "two"));
    // One that has no other name stays the same file, for those who have it open.
    let before = fs::metadata(scene.path("b")).unwrap().ino();
    assert_eq!(scene.unpack("/data", &[("b", FILE, "", "3")]), [""; 0]);
    assert_eq!(
        (scene.read("b").as_str(), fs::metadata(scene.path("b")).unwrap().ino()),
        ("3", before)
    );
}

#[test]
fn hard_links_lead_to_files_of_their_volume_only() {
    let cases: &[(&str, &[Row], &str)] = &[
        ("/data", &[("h", HARD, "../secret", "")], "a path with `..`"),
        ("/data", &[("h", HARD, "../../etc/passwd", "")], "a path with `..`"),
        ("/data", &[("h", HARD, "/etc/passwd", "")], "it is not in the same volume"),
        ("/data", &[("h", HARD, "/other/file", "")], "it is not in the same volume"),
        ("/data", &[("h", HARD, "/ro/file", "")], "it is not in the same volume"),
        ("/", &[("data/h", HARD, "other/file", "")], "it is not in the same volume"),
        ("/data", &[("h", HARD, "", "")], "leads nowhere"),
        ("/data", &[("h", HARD, ".", "")], "it is no file"),
        ("/data", &[("h", HARD, "missing", "")], "No such file"),
        ("/data", &[("h", HARD, "h", "")], "No such file"),
        ("/data", &[("d/x", FILE, "", ""), ("h", HARD, "d", "")], "it is no file"),
        ("/data", &[("l", LINK, "../secret", ""), ("h", HARD, "l", "")], "it is no file"),
        (
            "/data",
            &[("f", FILE, "", ""), ("l", LINK, "f", ""), ("h", HARD, "l", "")],
            "it is no file",
        ),
        ("/data", &[("l", LINK, "..", ""), ("h", HARD, "l/secret", "")], "device"),
        ("/data", &[("l", LINK, "/", ""), ("h", HARD, "l/etc/passwd", "")], "device"),
        // Nor is one made elsewhere.
        ("/data", &[("f", FILE, "", ""), ("../h", HARD, "f", "")], "a path with `..`"),
        ("/data", &[("f", FILE, "", ""), ("l", LINK, "..", ""), ("l/h", HARD, "f", "")], "device"),
        ("/ro", &[("h", HARD, "file", "")], "Read-only file system"),
        // And no directory gives way.
        ("/data", &[("f", FILE, "", ""), ("h/x", FILE, "", ""), ("h", HARD, "f", "")], "directory"),
    ];
    for (directory, rows, why) in cases {
        let scene = scene();
        let told = scene.unpack(directory, rows);
        let name = rows.last().unwrap().0;
        assert_eq!(told.len(), 1, "{rows:?}: {told:?}");
        assert!(told[0].starts_with(&format!("tar: {name}: ")), "{rows:?}: {told:?}");
        assert!(told[0].contains(why), "{rows:?}: {told:?}");
        assert!(
            fs::symlink_metadata(scene.path("h")).is_ok_and(|h| h.is_dir())
                == (*why == "directory")
        );
        for kept in ["secret", "volume/secret", "ro/file", "other/file"] {
            let kept = scene.dir.path().join(kept);
            assert_eq!(fs::metadata(&kept).unwrap().nlink(), 1, "{rows:?}");
            assert_eq!(fs::read_to_string(kept).unwrap(), "kept", "{rows:?}");
        }
        for made in ["h", "volume/h", "ro/h"] {
            assert!(!scene.dir.path().join(made).exists(), "{rows:?}");
        }
    }
    // A link to itself takes nothing away.
    let scene = scene();
    let rows = [("h", FILE, "", "whole"), ("h", HARD, "h", "")];
    assert_eq!(scene.unpack("/data", &rows), [""; 0]);
    assert_eq!((scene.read("h").as_str(), scene.names("h")), ("whole", 1));
}
