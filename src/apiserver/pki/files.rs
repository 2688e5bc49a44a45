//! Files of the authority: private to their owner, replaced as a whole, durable before they are
//! relied on.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::PkiError;
use crate::base::private;

fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_path_buf();
    move |source| PkiError::Io { path, source }
}

/// Makes a directory that only its owner can enter.
pub fn make_private_dir(dir: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(dir).map_err(at(dir))?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(at(dir))
}

/// The text of a file; `None` if there is none.
pub fn read(dir: &Path, name: &str) -> Result<Option<String>, PkiError> {
    let path = dir.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path)(error)),
    }
}

/// Writes a file with mode 0600: complete and on the disk under its name, or not at all.
pub fn write_private(dir: &Path, name: &str, text: &str) -> Result<(), PkiError> {
    let path = dir.join(name);
    let new = dir.join(format!("{name}.new"));
    private::replace(&path, &new, text).map_err(at(&path))
}
