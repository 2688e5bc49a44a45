//! The entries of a layer's archive: tar with the extensions for long names that tools write, plain or
//! compressed (gzip, zstd). What one entry may say of the next is bounded, and so is what the archive may have.

use std::io::{self, Read};

use ::tar::{Archive, EntryType};

use super::gzip::Gunzip;
use super::unpack::{UnpackError, refused};
use super::zstd::Unzstd;

/// Bytes of one extension header.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;
/// Rights where nothing says others.
const FILE_MODE: u32 = 0o644;

/// One entry.
#[derive(Debug)]
pub struct Found {
    /// As it stands in the archive.
    pub path: String,
    pub kind: EntryType,
    pub mode: u32,
    pub size: u64,
    /// What a link leads to.
    pub link: String,
}

impl Found {
    /// A file that is no archive's.
    pub fn file(name: &str, size: u64) -> Found {
        let (path, link) = (name.to_string(), String::new());
        Found { path, kind: EntryType::Regular, mode: FILE_MODE, size, link }
    }
}

/// What extension headers said of the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    No,
    Gzip,
    Zstd,
}

/// Shows each entry and its content; `most_bytes` is how long the archive may be.
pub fn walk(
    bytes: &[u8],
    compression: Compression,
    most_bytes: u64,
    mut show: impl FnMut(&Found, &mut dyn Read) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let reader: Box<dyn Read + '_> = match compression {
        Compression::No => Box::new(bytes),
        Compression::Gzip => Box::new(Gunzip::new(bytes)),
        Compression::Zstd => Box::new(Unzstd::new(bytes)),
    };
    let mut archive = Archive::new(Bounded { reader, left: most_bytes });
    let unread = |error: io::Error| UnpackError::Refused(format!("it is no tar archive: {error}"));
    let mut extensions = Extensions::default();
    for entry in archive.entries().map_err(unread)?.raw(true) {
        let mut entry = entry.map_err(unread)?;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => extensions.path = Some(long_name(&mut entry)?),
            EntryType::GNULongLink => extensions.link = Some(long_name(&mut entry)?),
            EntryType::XHeader => read_pax(&small(&mut entry)?, &mut extensions)?,
            EntryType::XGlobalHeader => {}
            _ => {
                let found = found(&entry, std::mem::take(&mut extensions))?;
                show(&found, &mut entry)?;
            }
        }
    }
    Ok(())
}

fn found<R: Read>(
    entry: &::tar::Entry<'_, R>,
    extensions: Extensions,
) -> Result<Found, UnpackError> {
    let header = entry.header();
    let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let path = text(path)?;
    let own_link = || header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
    let link = text(extensions.link.unwrap_or_else(own_link))?;
    let size = entry.size();
    if extensions.size.is_some_and(|told| told != size) {
        return refused(format!("{path:?} has two different sizes"));
    }
    // Older archives have no type of directories.
    let is_dir = path.ends_with('/') && header.entry_type().is_file();
    let kind = if is_dir { EntryType::Directory } else { header.entry_type() };
    Ok(Found { path, kind, mode: header.mode().unwrap_or(FILE_MODE), size, link })
}

fn text(bytes: Vec<u8>) -> Result<String, UnpackError> {
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => refused("it has a name that is not UTF-8"),
    }
}

fn small<R: Read>(entry: &mut ::tar::Entry<'_, R>) -> Result<Vec<u8>, UnpackError> {
    if entry.size() > MAX_EXTENSION_BYTES {
        return refused(format!("it has a header of more than {MAX_EXTENSION_BYTES} bytes"));
    }
    let mut bytes = Vec::new();
    match entry.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => refused(format!("it cannot be read: {error}")),
    }
}

fn long_name<R: Read>(entry: &mut ::tar::Entry<'_, R>) -> Result<Vec<u8>, UnpackError> {
    let mut name = small(entry)?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    name.truncate(end);
    Ok(name)
}

/// Records of `LENGTH KEY=VALUE\n` (POSIX.1-2001, pax Extended Header).
fn read_pax(mut rest: &[u8], extensions: &mut Extensions) -> Result<(), UnpackError> {
    while !rest.is_empty() {
        let Some((key, value, after)) = pax_record(rest) else {
            return refused("it has an extended header that cannot be read");
        };
        match key {
            b"path" => extensions.path = Some(value.to_vec()),
            b"linkpath" => extensions.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                extensions.size = Some(size.unwrap_or(u64::MAX));
            }
            _ if key.starts_with(b"GNU.sparse.") => return refused("it has sparse files"),
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?;
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Fails where a reader gives more than it may.
struct Bounded<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => {
                self.left = left;
                Ok(count)
            }
            None => Err(io::Error::other("it is larger than an image's files may be")),
        }
    }
}
