//! What has been compiled at run time, kept on the disk: one file an image, named by a hash of everything that went into it.
//!
//! A cache only saves time: whatever goes wrong with it, the kernel is compiled. A file holds its whole key, so that a collision of
//! hashes is seen, and a checksum, so that a damaged file is. It is written under another name and then renamed: other processes see
//! all of it or nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cuda::custom::hash;

/// The first line of a file.
const MAGIC: &[u8] = b"fused-loss kernel 1\n";

/// A folder of images; without one nothing is kept.
pub(super) struct Cache(pub(super) Option<PathBuf>);

impl Cache {
    /// The user's: `FUSED_LOSS_CACHE` (empty for none), or `fused-loss` in the folder for caches.
    pub(super) fn of_user() -> Self {
        Cache(folder(|name| std::env::var_os(name)))
    }

    /// What was stored under this key.
    pub(super) fn read(&self, name: &str, key: &[u8]) -> Option<Vec<u8>> {
        let file = std::fs::read(self.path(name, key)?).ok()?;
        let rest = file.strip_prefix(MAGIC)?;
        let (sum, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let image = rest.strip_prefix(key)?;
        let whole = image.len() as u64 == u64::from_le_bytes(*len) && hash(&[image]) == u64::from_le_bytes(*sum);
        whole.then(|| image.to_vec())
    }

    /// Stores an image, if that can be done.
    pub(super) fn write(&self, name: &str, key: &[u8], image: &[u8]) {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let Some(path) = self.path(name, key) else { return };
        let own = format!("tmp.{}.{}", std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
        let temporary = path.with_extension(own);
        let (sum, len) = (hash(&[image]).to_le_bytes(), (image.len() as u64).to_le_bytes());
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            std::fs::write(&temporary, [MAGIC, &sum, &len, key, image].concat())?;
            std::fs::rename(&temporary, &path)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
    }

    pub(super) fn path(&self, name: &str, key: &[u8]) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{name}-{:016x}.kernel", hash(&[key]))))
    }
}

fn folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable("FUSED_LOSS_CACHE") {
        return Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty());
    }
    // Never a folder for temporary files: others could put kernels there.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let caches = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))
    };
    Some(caches?.join("fused-loss"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> Cache {
        let folder = std::env::temp_dir().join(format!("fused-loss-cache-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        Cache(Some(folder))
    }

    #[test]
    fn what_was_stored_is_found_and_what_is_damaged_is_not() {
        let cache = temporary("damage");
        assert_eq!(cache.read("mse", b"key"), None);
        cache.write("mse", b"key", b"image");
        assert_eq!(cache.read("mse", b"key").as_deref(), Some(&b"image"[..]));
        assert_eq!(cache.read("mse", b"another key"), None);
        // Of another key, by a collision; cut short, wherever; changed; empty.
        let path = cache.path("mse", b"key").unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut changed = good.clone();
        *changed.last_mut().unwrap() ^= 1;
        let longer = [&good[..], b"!"].concat();
        for bad in (0..good.len()).map(|n| &good[..n]).chain([&changed[..], &longer, b"something else"]) {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(cache.read("mse", b"key"), None);
        }
        std::fs::copy(&path, cache.path("mse", b"yek").unwrap()).unwrap();
        assert_eq!(cache.read("mse", b"yek"), None);
        cache.write("mse", b"key", b"image");
        assert_eq!(cache.read("mse", b"key").as_deref(), Some(&b"image"[..]));
        std::fs::remove_dir_all(cache.0.unwrap()).unwrap();
    }

    /// Whoever reads while others write sees one of the images, whole, or none.
    #[test]
    fn many_may_write_at_once() {
        let cache = &temporary("many");
        let images: Vec<Vec<u8>> = (0..4).map(|n| vec![n; 100_000 + usize::from(n)]).collect();
        std::thread::scope(|scope| {
            for image in &images {
                scope.spawn(|| (0..20).for_each(|_| cache.write("k", b"key", image)));
            }
            for _ in 0..200 {
                let read = cache.read("k", b"key");
                assert!(read.is_none_or(|read| images.contains(&read)));
            }
        });
        let folder = cache.0.as_ref().unwrap();
        assert_eq!(folder.read_dir().unwrap().count(), 1, "nothing temporary is left");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_cache() {
        for cache in [Cache(None), Cache(Some("/dev/null/nowhere".into()))] {
            cache.write("k", b"key", b"image");
            assert_eq!(cache.read("k", b"key"), None);
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_the_users() {
        let with = |set: &[(&str, &str)]| {
            folder(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into())).map(|f| f.display().to_string())
        };
        assert_eq!(with(&[("HOME", "/home/u")]).as_deref(), Some("/home/u/.cache/fused-loss"));
        assert_eq!(with(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c/fused-loss"));
        assert_eq!(with(&[("HOME", "/home/u"), ("XDG_CACHE_HOME", "c")]).as_deref(), Some("/home/u/.cache/fused-loss"));
        assert_eq!(with(&[("HOME", "/home/u"), ("FUSED_LOSS_CACHE", "mine")]).as_deref(), Some("mine"));
        assert_eq!(with(&[("HOME", "/home/u"), ("FUSED_LOSS_CACHE", "")]), None);
        assert_eq!(with(&[]), None);
    }
}
