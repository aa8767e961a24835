//! A look at the file and its settings, and what they mean for tasks.

use std::path::Path;

use super::connection::Stop;
use super::transaction::Transaction;
use crate::store::{Finding, Severity, StoreError};

/// Below this much room a person should hear of it, in bytes.
const LITTLE_ROOM: u64 = 1 << 30;
/// Below this much the store will soon refuse work, in bytes.
const NO_ROOM: u64 = 64 << 20;

/// Looks at the database: its version, and what a commit is worth.
pub(super) fn settings(tx: &mut Transaction<'_>) -> Result<Vec<Finding>, Stop<StoreError>> {
    let version: String = tx.db.query_row("SELECT sqlite_version()", [], |row| row.get(0))?;
    let schema: i64 = tx.db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let journal: String = tx.db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let synchronous: i64 = tx.db.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    Ok(vec![good("version", format!("SQLite {version}, schema version {schema}")), durability(&journal, synchronous)])
}

/// `PRAGMA synchronous`: 0 off, 1 normal, 2 full, 3 extra.
fn durability(journal: &str, synchronous: i64) -> Finding {
    let said = format!("journal_mode is {journal}, synchronous is {synchronous}");
    if journal == "wal" && synchronous >= 2 {
        let said = format!(
            "{said}: what was answered is on the disk, and a crash of the process or the machine loses none of it; \
             the loss of the disk loses all"
        );
        let advice = "back the file up with `sqlite3 FILE '.backup COPY'`, which works while it is used";
        return Finding { advice: Some(advice.to_owned()), ..good("durability", said) };
    }
    Finding {
        severity: Severity::Fatal,
        subject: "durability".to_owned(),
        said: format!("{said}: a crash of the machine may lose accepted tasks"),
        advice: Some("nobody but this program may change the settings of the file".to_owned()),
    }
}

/// Looks at the file: what disk it lies on, how much room is left, who may read it. Blocks.
pub(super) fn file(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    #[cfg(unix)]
    {
        let directory = path.parent().unwrap_or(path);
        #[cfg(target_os = "linux")]
        match rustix::fs::statfs(directory) {
            Ok(found) => findings.push(file_system(found.f_type.into(), path)),
            Err(error) => findings.push(unknown("file system", path, &error)),
        }
        match rustix::fs::statvfs(directory) {
            Ok(found) => findings.push(room(found.f_bavail.saturating_mul(found.f_frsize), path)),
            Err(error) => findings.push(unknown("free space", path, &error)),
        }
        match rustix::fs::stat(path) {
            Ok(found) => findings.push(permissions(found.st_mode, path)),
            Err(error) => findings.push(unknown("permissions", path, &error)),
        }
    }
    findings
}

/// What kind of file system it is, by the numbers of `statfs(2)`.
#[cfg(target_os = "linux")]
fn file_system(kind: i128, path: &Path) -> Finding {
    let network = match kind {
        0x6969 => Some("NFS"),
        0x517B | 0xFF53_4D42 | 0xFE53_4D42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x00C3_6400 => Some("Ceph"),
        0x0BD0_0BD0 => Some("Lustre"),
        0x5346_414F | 0x6B41_4653 => Some("AFS"),
        0x7461_636F => Some("OCFS2"),
        0x0116_1970 => Some("GFS2"),
        _ => None,
    };
    let (severity, said, advice) = match (kind, network) {
        (_, Some(name)) => (
            Severity::Fatal,
            format!(
                "{} lies on {name}, a file system of several machines, where the write-ahead log does not work: the \
                 file will be damaged as soon as two machines use it",
                path.display()
            ),
            Some("put the file on a local disk, or use a store with a server (redis:// or postgres://)"),
        ),
        (0x0102_1994 | 0x8584_58F6, None) => (
            Severity::Warning,
            format!("{} lies in memory: a restart of the machine loses everything", path.display()),
            Some("put the file on a disk"),
        ),
        (0x6573_5546, None) => (
            Severity::Warning,
            format!("{} lies on FUSE: whether locks and flushes work is up to the program behind it", path.display()),
            Some("put the file on a local disk"),
        ),
        _ => (Severity::Good, format!("{} lies on a local file system", path.display()), None),
    };
    Finding { severity, subject: "file system".to_owned(), said, advice: advice.map(str::to_owned) }
}

fn room(bytes: u64, path: &Path) -> Finding {
    let severity = match bytes {
        0..NO_ROOM => Severity::Fatal,
        NO_ROOM..LITTLE_ROOM => Severity::Warning,
        LITTLE_ROOM.. => Severity::Good,
    };
    let mut said = format!("{} MiB are free where {} lies", bytes >> 20, path.display());
    if severity != Severity::Good {
        said.push_str("; on a full disk nothing is accepted and nothing goes on, but nothing is lost");
    }
    let advice = (severity != Severity::Good).then(|| "make room, or keep less (retention)".to_owned());
    Finding { severity, subject: "free space".to_owned(), said, advice }
}

fn permissions(mode: u32, path: &Path) -> Finding {
    let (mode, others) = (mode & 0o777, mode & 0o077);
    if others == 0 {
        return good("permissions", format!("only its owner may use {} (mode {mode:o})", path.display()));
    }
    Finding {
        severity: Severity::Warning,
        subject: "permissions".to_owned(),
        said: format!("others than its owner may use {} (mode {mode:o}): it holds inputs and answers", path.display()),
        advice: Some(format!("chmod 600 {0} {0}-wal {0}-shm", path.display())),
    }
}

fn good(subject: &str, said: String) -> Finding {
    Finding { severity: Severity::Good, subject: subject.to_owned(), said, advice: None }
}

fn unknown(subject: &str, path: &Path, error: &dyn std::fmt::Display) -> Finding {
    Finding {
        severity: Severity::Warning,
        subject: subject.to_owned(),
        said: format!("cannot look at {}: {error}", path.display()),
        advice: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_flush_is_worth_a_commit() {
        assert_eq!(durability("wal", 2).severity, Severity::Good);
        assert_eq!(durability("wal", 1).severity, Severity::Fatal);
        assert_eq!(durability("delete", 2).severity, Severity::Fatal);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_network_is_no_place_for_the_file() {
        let severity = |kind| file_system(kind, Path::new("x.db")).severity;
        assert_eq!(severity(0x6969), Severity::Fatal);
        assert_eq!(severity(0xFE53_4D42), Severity::Fatal);
        assert_eq!(severity(0x0102_1994), Severity::Warning);
        assert_eq!(severity(0xEF53), Severity::Good);
    }

    #[test]
    fn room_and_permissions_are_looked_at() {
        let path = Path::new("x.db");
        assert_eq!(room(0, path).severity, Severity::Fatal);
        assert_eq!(room(NO_ROOM, path).severity, Severity::Warning);
        assert_eq!(room(LITTLE_ROOM, path).severity, Severity::Good);
        assert_eq!(permissions(0o100_600, path).severity, Severity::Good);
        assert_eq!(permissions(0o100_640, path).severity, Severity::Warning);
    }
}
