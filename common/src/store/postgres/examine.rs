//! What the server's settings mean for tasks, in words for a person.

use std::collections::HashMap;
use std::time::Duration;

use super::address::{Address, Tls};
use super::connection::Connection;
use super::fault::Fault;
use super::value::Time;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::store::{Finding, Severity};

/// The oldest version that is tried.
const OLDEST: i32 = 130_000;
/// Clocks that differ by more are worth a word.
const APART: Duration = Duration::from_secs(5);
/// Connections that one process opens at most, beside its writers: the pool and the bell.
const OTHERS: i64 = 5;

const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE name IN ('server_version_num', 'server_version', \
     'fsync', 'synchronous_commit', 'full_page_writes', 'wal_writer_delay', 'synchronous_standby_names', \
     'max_connections', 'superuser_reserved_connections', 'autovacuum', 'server_encoding', 'ssl')";
const STATE: &str = "SELECT pg_is_in_recovery(), clock_timestamp(), \
     has_schema_privilege(current_schema(), 'CREATE'), has_schema_privilege(current_schema(), 'USAGE'), \
     has_table_privilege('tasks', 'SELECT') AND has_table_privilege('tasks', 'INSERT') \
       AND has_table_privilege('tasks', 'UPDATE') AND has_table_privilege('tasks', 'DELETE'), \
     (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
     coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)";

/// What was asked of the server. Kept apart from what it means, which is pure.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
struct Look {
    settings: HashMap<String, String>,
    recovering: bool,
    server_now: Timestamp,
    machine_now: Timestamp,
    may_create: bool,
    may_use: bool,
    may_write: bool,
    connections: i64,
    encrypted: bool,
}

/// Looks, and says what it means.
pub(super) async fn examine(connection: &Connection, address: &Address) -> Result<Vec<Finding>, Fault> {
    let mut settings = HashMap::new();
    for row in connection.query(SETTINGS, &[]).await? {
        settings.insert(row.try_get(0)?, row.try_get(1)?);
    }
    let rows = connection.query(STATE, &[]).await?;
    let Some(row) = rows.first() else { return Err(Fault::Unavailable("the server says nothing".to_owned())) };
    let Time(server_now) = row.try_get(1)?;
    let look = Look {
        settings,
        recovering: row.try_get(0)?,
        server_now,
        machine_now: SystemClock.now(),
        may_create: row.try_get(2)?,
        may_use: row.try_get(3)?,
        may_write: row.try_get(4)?,
        connections: row.try_get(5)?,
        encrypted: row.try_get(6)?,
    };
    Ok(findings(&look, address))
}

fn findings(look: &Look, address: &Address) -> Vec<Finding> {
    let setting = |name: &str| look.settings.get(name).map_or("", String::as_str);
    let mut findings = vec![version(setting("server_version_num"), setting("server_version"))];
    findings.push(process(setting("synchronous_commit"), setting("wal_writer_delay")));
    findings.push(machine(setting));
    findings.push(site(setting("synchronous_commit"), setting("synchronous_standby_names")));
    if look.recovering {
        let said = "this server is a standby: it accepts no tasks";
        findings.push(fatal(
            "pg_is_in_recovery",
            said,
            "name the primary in the URL, or all hosts with \
                            target_session_attrs=read-write",
        ));
    }
    findings.push(privileges(look, &address.schema));
    findings.push(connections(look, setting("max_connections"), setting("superuser_reserved_connections"), address));
    findings.push(clocks(look));
    findings.push(if setting("autovacuum") == "off" {
        let said = "off: finished work is never cleared away, and taking becomes slower and slower";
        warning("autovacuum", said, "set autovacuum = on")
    } else {
        good("autovacuum", "on: the space of changed rows is used again")
    });
    let encoding = setting("server_encoding");
    findings.push(if encoding == "UTF8" {
        good("server_encoding", "UTF8: every text can be kept")
    } else {
        let said = format!("{encoding}: texts with other characters are refused");
        fatal("server_encoding", &said, "create the database with ENCODING 'UTF8' TEMPLATE template0")
    });
    findings.push(tls(look, address));
    findings
}

fn finding(severity: Severity, subject: &str, said: &str, advice: Option<&str>) -> Finding {
    Finding { severity, subject: subject.to_owned(), said: said.to_owned(), advice: advice.map(str::to_owned) }
}

fn good(subject: &str, said: &str) -> Finding {
    finding(Severity::Good, subject, said, None)
}

fn warning(subject: &str, said: &str, advice: &str) -> Finding {
    finding(Severity::Warning, subject, said, Some(advice))
}

fn fatal(subject: &str, said: &str, advice: &str) -> Finding {
    finding(Severity::Fatal, subject, said, Some(advice))
}

fn version(number: &str, name: &str) -> Finding {
    let said = format!("PostgreSQL {name}");
    if number.parse::<i32>().is_ok_and(|number| number >= OLDEST) {
        good("server_version", &said)
    } else {
        let said = format!("{said}: this program is tried with 15, and uses nothing that is newer than 13");
        warning("server_version", &said, "use PostgreSQL 13 or later")
    }
}

/// What an asynchronous commit can lose, if commits are that. The documentation: at most three times `wal_writer_delay`.
fn asynchronous(commit: &str, delay: &str) -> Option<String> {
    let lost = || delay.parse::<u64>().map_or_else(|_| "part of a second".to_owned(), |ms| format!("{} ms", ms * 3));
    (commit == "off").then(|| {
        format!("synchronous_commit is off: what was accepted in the last {} is lost, and nothing is damaged", lost())
    })
}

const SYNCHRONOUS: &str = "set synchronous_commit = on for the database or the role";

fn process(commit: &str, delay: &str) -> Finding {
    if let Some(said) = asynchronous(commit, delay) {
        return warning(Finding::PROCESS, &said, SYNCHRONOUS);
    }
    let said = format!("synchronous_commit is {commit}: nothing is lost, a task is accepted when it is on disk");
    good(Finding::PROCESS, &said)
}

fn machine<'a>(setting: impl Fn(&str) -> &'a str) -> Finding {
    if setting("fsync") == "off" {
        let said = "fsync is off: accepted tasks are lost, and the database may be damaged beyond repair";
        return warning(Finding::MACHINE, said, "set fsync = on; without it this server is for tests only");
    }
    if setting("full_page_writes") == "off" {
        let said = "full_page_writes is off: a page that was half written stays damaged";
        return warning(Finding::MACHINE, said, "set full_page_writes = on, unless the file system writes pages whole");
    }
    if let Some(said) = asynchronous(setting("synchronous_commit"), setting("wal_writer_delay")) {
        return warning(Finding::MACHINE, &said, SYNCHRONOUS);
    }
    let said = "fsync and full_page_writes are on: nothing is lost, unless the disk says that it wrote what it did not";
    good(Finding::MACHINE, said)
}

fn site(commit: &str, names: &str) -> Finding {
    if names.is_empty() || matches!(commit, "off" | "local") {
        let said = "no standby has to confirm a commit (synchronous_standby_names): what has not reached a replica or a \
                    backup is lost";
        warning(Finding::SITE, said, "name a synchronous standby on another site, or accept it and keep backups")
    } else {
        good(Finding::SITE, &format!("{names}: what was accepted is on a standby too"))
    }
}

fn privileges(look: &Look, schema: &str) -> Finding {
    let subject = "privileges";
    if look.may_use && look.may_write && look.may_create {
        good(subject, &format!("the role may read, write and migrate schema {schema}"))
    } else if look.may_use && look.may_write {
        let said = format!("the role may not create tables in schema {schema}: a newer version cannot migrate it");
        warning(subject, &said, "grant CREATE on the schema before the next upgrade, or migrate as its owner")
    } else {
        let said = format!("the role may not read and write the tables of schema {schema}");
        fatal(subject, &said, "grant USAGE on the schema, and SELECT, INSERT, UPDATE, DELETE on all of its tables")
    }
}

fn connections(look: &Look, most: &str, reserved: &str, address: &Address) -> Finding {
    let subject = "max_connections";
    let free = most.parse::<i64>().unwrap_or(0) - reserved.parse::<i64>().unwrap_or(0) - look.connections;
    let each = i64::try_from(address.writers).unwrap_or(i64::MAX) + OTHERS;
    let said = format!("{most}, of which {free} are free; each process of this program opens up to {each}");
    if free < each {
        warning(subject, &said, "raise max_connections, or run fewer processes or writers (?writers=)")
    } else {
        good(subject, &said)
    }
}

fn clocks(look: &Look) -> Finding {
    let apart = look.server_now.since(look.machine_now).max(look.machine_now.since(look.server_now));
    let said = format!("the server's clock and this machine's are {} ms apart", apart.as_millis());
    if apart > APART {
        let said = format!("{said}: leases and timers go by the server's, and what people read here by this machine's");
        warning("clock", &said, "run NTP on both")
    } else {
        good("clock", &said)
    }
}

fn tls(look: &Look, address: &Address) -> Finding {
    match (&address.tls, look.encrypted) {
        (Tls::Verified { .. }, true) => {
            good("sslmode", "the connection is encrypted, and the server has proved who it is")
        }
        (Tls::Unverified, true) if !address.is_local() => {
            let said = "the connection is encrypted, but whoever stands in between may pass for the server";
            warning("sslmode", said, "use sslmode=verify-full, with ca=FILE if the server has a CA of its own")
        }
        (_, false) if !address.is_local() => {
            let said = "the connection is not encrypted: passwords are protected, inputs and journals are not";
            warning("sslmode", said, "use sslmode=verify-full")
        }
        _ => good("sslmode", "the server is on this machine"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn look(changed: &[(&str, &str)]) -> Look {
        let usual = [
            ("server_version_num", "150018"),
            ("server_version", "15.18"),
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("wal_writer_delay", "200"),
            ("synchronous_standby_names", "a"),
            ("max_connections", "100"),
            ("superuser_reserved_connections", "3"),
            ("autovacuum", "on"),
            ("server_encoding", "UTF8"),
        ];
        Look {
            settings: usual.iter().chain(changed).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            recovering: false,
            server_now: Timestamp::from_millis(0),
            machine_now: Timestamp::from_millis(100),
            may_create: true,
            may_use: true,
            may_write: true,
            connections: 10,
            encrypted: false,
        }
    }

    fn worst(look: &Look, url: &str) -> Vec<(Severity, String)> {
        let bad = |finding: &Finding| finding.severity != Severity::Good;
        let findings = findings(look, &Address::parse(url).unwrap());
        assert!(findings.iter().all(|finding| bad(finding) == finding.advice.is_some()));
        findings.into_iter().filter(bad).map(|finding| (finding.severity, finding.subject)).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_good() {
        assert_eq!(worst(&look(&[]), "postgres://localhost/db"), []);
    }

    #[test]
    fn what_can_lose_tasks_is_named() {
        let bad = [Severity::Warning, Severity::Fatal];
        for (setting, value, severity, subjects) in [
            ("fsync", "off", bad[0], &[Finding::MACHINE][..]),
            ("synchronous_commit", "off", bad[0], &[Finding::PROCESS, Finding::MACHINE, Finding::SITE]),
            ("full_page_writes", "off", bad[0], &[Finding::MACHINE]),
            ("synchronous_standby_names", "", bad[0], &[Finding::SITE]),
            ("max_connections", "15", bad[0], &["max_connections"]),
            ("autovacuum", "off", bad[0], &["autovacuum"]),
            ("server_encoding", "SQL_ASCII", bad[1], &["server_encoding"]),
        ] {
            let found = worst(&look(&[(setting, value)]), "postgres://localhost/db");
            let expected: Vec<_> = subjects.iter().map(|subject| (severity, (*subject).to_owned())).collect();
            assert_eq!(found, expected, "{setting}");
        }
    }

    #[test]
    fn a_standby_is_refused() {
        let mut standby = look(&[]);
        standby.recovering = true;
        let found = worst(&standby, "postgres://localhost/db");
        assert_eq!(found, [(Severity::Fatal, "pg_is_in_recovery".to_owned())]);
    }

    #[test]
    fn an_asynchronous_commit_says_how_much_is_lost() {
        let address = Address::parse("postgres://localhost/db").unwrap();
        let found = findings(&look(&[("synchronous_commit", "off")]), &address);
        assert!(found.iter().any(|finding| finding.said.contains("600 ms")));
    }

    #[test]
    fn a_distant_server_without_tls_is_named() {
        let distant = worst(&look(&[]), "postgres://db.example.com/db");
        assert_eq!(distant, [(Severity::Warning, "sslmode".to_owned())]);
    }
}
