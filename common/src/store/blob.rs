//! Large values: what leaves the journals, where it goes, and for how long what
//! nobody refers to is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// For how long a blob is kept that no task refers to (any more): longer than
/// any writer takes between keeping a value and writing the event that refers to it.
pub const BLOB_GRACE: Duration = Duration::from_secs(3600);

/// What is done with large values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobOptions {
    /// A value with more bytes of JSON than this leaves the journal. Default 64 KiB.
    pub threshold: usize,
    /// Where it goes.
    pub place: BlobPlace,
    /// The address of a server that speaks S3, such as `http://127.0.0.1:9000`; without it, Amazon's.
    pub endpoint: Option<String>,
    /// How many bytes of values (as JSON) a process keeps at hand. Default 16 MiB.
    pub cache: usize,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self { threshold: 64 << 10, place: BlobPlace::Store, endpoint: None, cache: 16 << 20 }
    }
}

/// Where large values go. Written as `store`, `file:PATH` or `s3://BUCKET/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum BlobPlace {
    /// Into the store that keeps the journals.
    #[default]
    Store,
    /// Into a folder that all processes share.
    Folder(PathBuf),
    /// Into a bucket.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What the names of all objects begin with; may be empty.
        prefix: String,
    },
}

impl BlobPlace {
    /// The same place, with a relative folder below `dir`.
    #[must_use]
    pub fn below(self, dir: &Path) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(dir.join(path)),
            place => place,
        }
    }
}

impl TryFrom<String> for BlobPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let invalid = |why: &str| {
            Err(format!(
                "{text:?} is no place for large values: {why}; write `store`, `file:PATH` or `s3://BUCKET/PREFIX`"
            ))
        };
        if text == "store" {
            return Ok(Self::Store);
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { invalid("the path is missing") } else { Ok(Self::Folder(path.into())) };
        }
        let Some(rest) = text.strip_prefix("s3://") else { return invalid("this is of no known kind") };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(plain) {
            // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
            return invalid("a bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens");
        }
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn place(text: &str) -> Result<BlobPlace, String> {
        BlobPlace::try_from(text.to_owned())
    }

    #[test]
    fn a_place_is_read() {
        assert_eq!(place("store").unwrap(), BlobPlace::Store);
        assert_eq!(place("file:blobs").unwrap().below(Path::new("/p")), BlobPlace::Folder("/p/blobs".into()));
        assert_eq!(place("file:///blobs").unwrap().below(Path::new("/p")), BlobPlace::Folder("/blobs".into()));
        let bucket = |prefix: &str| BlobPlace::Bucket { bucket: "my-bucket".to_owned(), prefix: prefix.to_owned() };
        assert_eq!(place("s3://my-bucket").unwrap(), bucket(""));
        assert_eq!(place("s3://my-bucket/a/b/").unwrap(), bucket("a/b"));
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_to_write() {
        for text in ["", "Store", "file:", "s3://", "s3://a", "s3://UPPER/x", "gs://bucket", "/blobs"] {
            assert!(place(text).unwrap_err().contains("s3://BUCKET/PREFIX"), "{text}");
        }
    }
}
