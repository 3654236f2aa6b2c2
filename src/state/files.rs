//! Files that are replaced whole or not at all: written beside their place, down to the disk, then renamed. Whatever
//! happens meanwhile, the path leads to a whole file, the old one or the new one.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How the name of a file that is being written ends.
const PARTIAL: &str = ".partial";

/// A partial file that old was left behind by a process that was killed.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// As many links as Linux follows.
const LINKS: usize = 40;

/// A file that is to be replaced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target(PathBuf);

/// What is to take a file's place, written and on the disk. Dropped, it is gone.
#[derive(Debug)]
#[must_use = "nothing takes the file's place before `publish`"]
pub struct Draft {
    partial: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Target {
    /// The file that a path leads to: behind links, also where nothing lies there yet, so that links stay links.
    ///
    /// # Errors
    /// What is there is no regular file, or the path lies in no folder.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut path = path.as_ref().to_owned();
        if path.metadata().is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::other("is there and not a regular file"));
        }
        for _ in 0..LINKS {
            let name = path.file_name().ok_or_else(|| io::Error::other("names no file"))?;
            let folder = folder_of(&path).canonicalize()?;
            let place = folder.join(name);
            match fs::symlink_metadata(&place) {
                Ok(there) if there.is_symlink() => path = folder.join(fs::read_link(&place)?),
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => return Ok(Self(place)),
            }
        }
        Err(io::Error::other(format!("leads through more than {LINKS} links")))
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes what is to take the file's place, beside it and down to the disk. Of a file that is there it has the
    /// permissions.
    ///
    /// # Errors
    /// The folder or the disk does not take it.
    pub fn write(&self, bytes: &[u8]) -> io::Result<Draft> {
        let before = fs::metadata(&self.0).ok();
        let start = start_of(self.0.file_name().unwrap_or_default());
        remove_abandoned(folder_of(&self.0), &start);
        let (mut file, partial) = create(folder_of(&self.0), &start, before.as_ref())?;
        let draft = Draft { partial, target: self.0.clone(), published: false };
        if let Some(before) = &before {
            take_over(&file, before)?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Draft {
    /// Takes the file's place.
    ///
    /// # Errors
    /// The folder does not allow it; the old file is as it was.
    pub fn publish(mut self) -> io::Result<()> {
        fs::rename(&self.partial, &self.target)?;
        self.published = true;
        // The new name too must be on the disk. Some file systems cannot sync a folder, and then need not.
        if let Ok(folder) = File::open(folder_of(&self.target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // What went wrong is told by what failed first.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Replaces one file.
///
/// # Errors
/// As [`Target::new`], [`Target::write`] and [`Draft::publish`]; the old file is as it was.
pub fn replace(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    Target::new(path)?.write(bytes)?.publish()
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// How the names of all that is written for a file of that name start. Of one length, since a name may already be as
/// long as the file system allows: FNV-1a stands for it (Fowler, Noll & Vo), the same in every build.
fn start_of(name: &OsStr) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!(".wgpu-optim-{hash:016x}-")
}

/// A new file of a name of its own: two writers never share one. What replaces a file is nobody else's to read before
/// it has that file's permissions.
fn create(folder: &Path, start: &str, before: Option<&Metadata>) -> io::Result<(File, PathBuf)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if before.is_some() {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = before;
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{start}{}-{number}{PARTIAL}", std::process::id()));
        match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (file, path)),
        }
    }
}

/// Gives a file the owner, where that is allowed, and the permissions of the one that it replaces.
#[cfg(unix)]
fn take_over(file: &File, before: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let own = file.metadata()?;
    let mut mode = before.mode() & 0o777;
    if own.uid() != before.uid() {
        // Only the superuser may; others own what they write.
        let _ = fchown(file, Some(before.uid()), None);
    }
    if own.gid() != before.gid() && fchown(file, None, Some(before.gid())).is_err() {
        // What one group was allowed is not for another.
        mode &= !0o070;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn take_over(_file: &File, _before: &Metadata) -> io::Result<()> {
    Ok(())
}

/// Removes what killed processes left of this target. Failures are left for a later call to meet.
fn remove_abandoned(folder: &Path, start: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.file_name().to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(PARTIAL));
        let age = || entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if own && age().is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_draft_that_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let draft = Target::new(&path).unwrap().write(b"new").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop(draft);
        assert!(names(folder.path()).is_empty());
        replace(&path, b"old").unwrap();
        drop(Target::new(&path).unwrap().write(b"new").unwrap());
        assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"old".to_vec(), vec!["run".to_owned()]));
    }

    #[test]
    fn what_killed_processes_left_is_removed_once_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, number: u32| {
            let path = folder.path().join(format!("{}{number}-0{PARTIAL}", start_of(name.as_ref())));
            fs::write(&path, "half").unwrap();
            path
        };
        let (old, young, other) = (place("run", 1), place("run", 2), place("another", 3));
        for path in [&old, &other] {
            let two_hours_ago = std::time::SystemTime::now() - 2 * ABANDONED;
            File::options().write(true).open(path).unwrap().set_modified(two_hours_ago).unwrap();
        }
        replace(folder.path().join("run"), b"whole").unwrap();
        assert!(!old.exists() && young.exists() && other.exists());
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let says = |path: &Path, words: &str| {
            let error = Target::new(path).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        };
        says(folder.path(), "not a regular file");
        says(Path::new("/"), "not a regular file");
        says(&folder.path().join(".."), "not a regular file");
        assert!(Target::new(folder.path().join("no/such")).is_err());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(Target::new(folder.path().join("file/within")).is_err());
    }

    /// Names as long as the file system takes, and names that are no text.
    #[test]
    fn every_name_that_a_file_can_have_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x".repeat(229), "x".repeat(230), "x".repeat(255), "ö".repeat(127)] {
            let path = folder.path().join(&name);
            for bytes in [b"one", b"two"] {
                replace(&path, bytes).unwrap();
                assert_eq!(fs::read(&path).unwrap(), bytes);
            }
        }
        #[cfg(unix)]
        {
            let path = folder.path().join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe"));
            replace(&path, b"bytes").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"bytes");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links_wherever_they_lead() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deep")).unwrap();
        fs::write(at("there"), "old").unwrap();
        symlink("there", at("to-there")).unwrap();
        // Through a chain of links, a folder that is one, and to what does not exist yet.
        symlink(at("deep"), at("folder")).unwrap();
        symlink("../to-nothing", at("deep/first")).unwrap();
        symlink("deep/nothing", at("to-nothing")).unwrap();
        for (link, file) in [("to-there", "there"), ("to-nothing", "deep/nothing"), ("folder/first", "deep/nothing")] {
            replace(at(link), link.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
            assert!(fs::symlink_metadata(at(file)).unwrap().is_file(), "{link}");
            assert_eq!(fs::read(at(file)).unwrap(), link.as_bytes());
        }
        assert_eq!(names(&at("deep")), ["first", "nothing"]);
        symlink("round", at("round")).unwrap();
        assert!(Target::new(at("round")).is_err());
        symlink("no/such/folder", at("astray")).unwrap();
        assert!(replace(at("astray"), b"x").is_err());
        assert!(fs::symlink_metadata(at("astray")).unwrap().is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        fs::write(&path, "old").unwrap();
        for mode in [0o600, 0o640, 0o666, 0o400] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            replace(&path, b"new").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode, "{mode:o}");
        }
        // A new one is as any other that is created there.
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        replace(folder.path().join("new"), b"new").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&folder.path().join("new")), mode(&plain));
    }
}
