//! A task's working directory, and the only way to files for tools.
//!
//! Every path is opened relative to a handle of the directory, by `cap-std`,
//! which lets no component lead out of it: not `..`, not an absolute path, not
//! a symbolic link, and not one that is swapped in while we look. Absolute
//! paths that begin with the directory are taken as relative to it. Absolute
//! symbolic links are refused, even if they lead back inside.

use std::io;
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, FileType, FileTypeExt, Metadata, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;

/// The longest path that is looked at, in bytes.
const PATH_LIMIT: usize = 4096;

/// An open working directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// As the caller named it, and with symbolic links resolved.
    roots: [PathBuf; 2],
    dir: Dir,
}

/// A path that a tool does not touch, and why, in words for the model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} is outside of the working directory; only files below it can be used, by a path relative to it")]
    Outside(String),
    #[error("{0:?} is not a path that can be used: {1}")]
    Malformed(String, &'static str),
    #[error("{0} does not exist")]
    Missing(String),
    #[error("{0} is a directory, not a file")]
    Directory(String),
    #[error("{0} is a file, not a directory")]
    NotDirectory(String),
    #[error("{0} is {1}; only regular files can be used")]
    Special(String, &'static str),
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

impl Workspace {
    /// Opens the directory.
    pub(crate) fn open(root: &Path) -> Result<Self, Refusal> {
        let fail = |error| Refusal::Io(format!("the working directory {}", root.display()), error);
        let dir = Dir::open_ambient_dir(root, ambient_authority()).map_err(fail)?;
        let canonical = root.canonicalize().map_err(fail)?;
        Ok(Self { roots: [root.to_owned(), canonical], dir })
    }

    /// A path relative to the directory. Says nothing of what is there; the
    /// directory itself is `.`.
    pub(crate) fn relative(&self, path: &str) -> Result<PathBuf, Refusal> {
        if path.is_empty() {
            return Err(Refusal::Malformed(path.to_owned(), "it is empty"));
        }
        if path.len() > PATH_LIMIT {
            return Err(Refusal::Malformed(path.chars().take(80).collect(), "it is longer than 4096 bytes"));
        }
        if path.contains('\0') {
            return Err(Refusal::Malformed(path.to_owned(), "it contains a NUL"));
        }
        let given = Path::new(path);
        let relative = if given.is_absolute() {
            let inside = self.roots.iter().find_map(|root| given.strip_prefix(root).ok());
            inside.ok_or_else(|| Refusal::Outside(path.to_owned()))?
        } else {
            given
        };
        // Dots alone are taken out; `..` is left to `cap-std`, which resolves it as the kernel would.
        let plain: PathBuf = relative.components().filter(|part| !matches!(part, Component::CurDir)).collect();
        Ok(if plain.as_os_str().is_empty() { PathBuf::from(".") } else { plain })
    }

    /// The path with every symbolic link and `..` resolved.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, Refusal> {
        if path == Path::new(".") {
            return Ok(path.to_owned());
        }
        self.dir.canonicalize(path).map_err(|error| refusal(path, error))
    }

    /// What is at a path, after symbolic links.
    pub(crate) fn metadata(&self, path: &Path) -> Result<Metadata, Refusal> {
        self.dir.metadata(path).map_err(|error| refusal(path, error))
    }

    /// Opens a regular file for reading.
    pub(crate) fn open_file(&self, path: &Path) -> Result<File, Refusal> {
        open_regular(&self.dir, path)
    }

    /// Opens a directory.
    pub(crate) fn open_dir(&self, path: &Path) -> Result<Dir, Refusal> {
        if !self.metadata(path)?.is_dir() {
            return Err(Refusal::NotDirectory(show(path)));
        }
        self.dir.open_dir(path).map_err(|error| refusal(path, error))
    }

    /// Puts a file in place as a whole: after a crash it has its old contents or
    /// all of the new ones. Makes the directories that it needs. An existing
    /// file keeps its mode; a symbolic link stays, and what it leads to is replaced.
    /// `key` names the call: repeated after a crash, it clears away what the
    /// first one left. Asks `last_call` right before the step that cannot be taken back.
    pub(crate) fn replace_file<E>(
        &self,
        path: &Path,
        contents: &[u8],
        key: &str,
        last_call: impl FnOnce() -> Result<(), E>,
    ) -> Result<Result<(), E>, Refusal> {
        let exists = match self.dir.metadata(path) {
            Ok(metadata) => {
                regular(path, metadata.file_type())?;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(refusal(path, error)),
        };
        let fail = |error| refusal(path, error);
        let target = if exists { self.resolve(path)? } else { path.to_owned() };
        let name = target.file_name().ok_or_else(|| Refusal::Malformed(show(path), "it does not name a file"))?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                self.dir.create_dir_all(parent).map_err(fail)?;
                self.dir.open_dir(parent).map_err(fail)?
            }
            _ => self.dir.try_clone().map_err(fail)?,
        };
        let digest = blake3::hash(format!("{key}\0{}", name.display()).as_bytes()).to_hex();
        let temporary = format!(".{}.tmp", &digest[..32]);
        let _ = parent.remove_file(&temporary);
        let written = write_new(&parent, &temporary, contents).and_then(|file| {
            if exists { file.set_permissions(self.dir.metadata(&target)?.permissions()) } else { Ok(()) }
        });
        if let Err(error) = written {
            let _ = parent.remove_file(&temporary);
            return Err(fail(error));
        }
        if let Err(stop) = last_call() {
            let _ = parent.remove_file(&temporary);
            return Ok(Err(stop));
        }
        parent.rename(&temporary, &parent, name).map_err(|error| {
            let _ = parent.remove_file(&temporary);
            fail(error)
        })?;
        Ok(Ok(()))
    }
}

/// Opens a regular file below `dir` for reading. Never waits for the other end of a FIFO.
pub(crate) fn open_regular(dir: &Dir, path: &Path) -> Result<File, Refusal> {
    let fail = |error| refusal(path, error);
    // Looked at before it is opened: opening a device may already do something.
    regular(path, dir.metadata(path).map_err(fail)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = dir.open_with(path, &options).map_err(fail)?;
    regular(path, file.metadata().map_err(fail)?.file_type())?;
    Ok(file)
}

fn write_new(dir: &Dir, name: &str, contents: &[u8]) -> io::Result<File> {
    use io::Write;
    let mut file = dir.open_with(name, OpenOptions::new().write(true).create_new(true))?;
    file.write_all(contents)?;
    file.sync_all()?;
    Ok(file)
}

fn regular(path: &Path, kind: FileType) -> Result<(), Refusal> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => return Err(Refusal::Directory(show(path))),
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_block_device() || kind.is_char_device() => "a device",
        _ => "a special file",
    };
    Err(Refusal::Special(show(path), what))
}

fn refusal(path: &Path, error: io::Error) -> Refusal {
    // `cap-std` has no error kind of its own for a path that leads out.
    let escapes = error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error())
        || error.raw_os_error().is_none() && error.kind() == io::ErrorKind::PermissionDenied;
    match error.kind() {
        _ if escapes => Refusal::Outside(show(path)),
        io::ErrorKind::NotFound => Refusal::Missing(show(path)),
        io::ErrorKind::IsADirectory => Refusal::Directory(show(path)),
        io::ErrorKind::NotADirectory => Refusal::NotDirectory(show(path)),
        _ => Refusal::Io(show(path), error),
    }
}

/// A path as it stands in messages.
pub(crate) fn show(path: &Path) -> String {
    path.display().to_string()
}
