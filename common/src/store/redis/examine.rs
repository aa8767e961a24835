//! Looks at a server's version, settings and permissions, and says what they mean
//! for tasks. The words are made by pure functions over what the server answers.

use std::collections::BTreeMap;
use std::time::Duration;

use super::RedisStore;
use super::address::Kind;
use super::keys;
use super::reply::{self, Reply};
use super::scripts::ask;
use crate::store::{Finding, Severity, StoreError};

/// The oldest version whose commands and scripts do what the store relies on.
const OLDEST: (u64, u64) = (7, 0);
/// A difference of clocks that people would notice in times of events.
const DRIFT: Duration = Duration::from_secs(2);
/// What the user of the store must be allowed to do.
const COMMANDS: [&[&str]; 8] = [
    &["EVALSHA", "0", "1", "KEY"],
    &["HSET", "KEY", "f", "1"],
    &["RPUSH", "KEY", "1"],
    &["ZADD", "KEY", "0", "m"],
    &["ZREVRANGEBYLEX", "KEY", "+", "-"],
    &["UNLINK", "KEY"],
    &["PUBLISH", "CHANNEL", "q"],
    &["SUBSCRIBE", "CHANNEL"],
];

/// What a server says of itself.
#[derive(Debug, Default)]
struct Server {
    info: BTreeMap<String, String>,
    /// The settings; nothing where the server does not show them.
    settings: Option<BTreeMap<String, String>>,
}

fn finding(severity: Severity, subject: &str, said: impl Into<String>, advice: &str) -> Finding {
    let advice = Some(advice.to_owned()).filter(|advice| !advice.is_empty());
    Finding { severity, subject: subject.to_owned(), said: said.into(), advice }
}

impl RedisStore {
    pub(super) async fn examine_server(&self) -> Result<Vec<Finding>, StoreError> {
        let info = reply::text(ask(&self.link, &redis::cmd("INFO")).await?);
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("*");
        let settings = match self.link.run(&command).await {
            Ok(value) => {
                let mut pairs = Reply::new(value);
                let mut settings = BTreeMap::new();
                while !pairs.is_empty() {
                    settings.insert(reply::text(pairs.next()), reply::text(pairs.next()));
                }
                Some(settings)
            }
            Err(_) => None,
        };
        let server = Server { info: parse(&info), settings };
        let mut findings = vec![version(&server)];
        findings.extend(durability(&server));
        findings.push(eviction(&server));
        findings.push(site(&server, &self.link.address().kind));
        findings.push(clocks(self.clock.ahead()));
        findings.push(self.permissions().await?);
        Ok(findings)
    }

    /// Asks the server what its user may do, without doing it.
    async fn permissions(&self) -> Result<Finding, StoreError> {
        let subject = "permissions";
        let Ok(user) = self.link.run(redis::cmd("ACL").arg("WHOAMI")).await.map(reply::text) else {
            let said = "the server does not say what its users may do";
            return Ok(finding(Severity::Warning, subject, said, "start a worker and look at its first errors"));
        };
        let (key, channel) = (self.keys.key(0, &keys::named("q", "x")), self.keys.channel());
        let mut refused = Vec::new();
        for words in COMMANDS {
            let mut command = redis::cmd("ACL");
            command.arg("DRYRUN").arg(&user);
            for word in words {
                match *word {
                    "KEY" => command.arg(&key),
                    "CHANNEL" => command.arg(&channel),
                    word => command.arg(word),
                };
            }
            let Ok(answer) = self.link.run(&command).await.map(reply::text) else {
                let said = format!("whether user {user} may do what the store does cannot be seen");
                return Ok(finding(Severity::Warning, subject, said, ""));
            };
            if answer != "OK" {
                refused.push(words.first().copied().unwrap_or_default());
            }
        }
        if refused.is_empty() {
            return Ok(finding(Severity::Good, subject, format!("user {user} may do what the store does"), ""));
        }
        let advice = format!("ACL SETUSER {user} +@all -@dangerous +info ~{0}:* &{0}:*", self.link.address().prefix);
        let said = format!("user {user} may not {}: the store does not work", refused.join(", "));
        Ok(finding(Severity::Fatal, subject, said, &advice))
    }
}

fn parse(info: &str) -> BTreeMap<String, String> {
    let lines = info.lines().filter_map(|line| line.trim().split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Server {
    fn info(&self, name: &str) -> Option<&str> {
        self.info.get(name).map(String::as_str)
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.as_ref()?.get(name).map(String::as_str)
    }
}

fn version(server: &Server) -> Finding {
    let version = server.info("redis_version").unwrap_or("unknown");
    let mut numbers = version.split('.').map(|number| number.parse::<u64>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) >= OLDEST {
        return finding(Severity::Good, "version", format!("Redis {version}"), "");
    }
    let said = format!("Redis {version} is older than {}.{}, with which the store was made", OLDEST.0, OLDEST.1);
    finding(Severity::Warning, "version", said, "use Redis 7.0 or newer")
}

/// What a crash of the process and of the machine can lose.
fn durability(server: &Server) -> [Finding; 2] {
    const ADVICE: &str = "CONFIG SET appendonly yes, and the same in redis.conf";
    let process = |severity, said: &str, advice| finding(severity, Finding::PROCESS, said, advice);
    let machine = |severity, said: &str, advice| finding(severity, Finding::MACHINE, said, advice);
    let appends = match server.setting("appendonly").map(|value| value == "yes") {
        Some(appends) => appends,
        None => server.info("aof_enabled") == Some("1"),
    };
    if !appends {
        let lost = "there is no append-only file: all that was accepted since the last snapshot is lost";
        return [process(Severity::Warning, lost, ADVICE), machine(Severity::Warning, lost, ADVICE)];
    }
    let kept = process(Severity::Good, "nothing is lost: each write is in the append-only file (appendonly yes)", "");
    let machine = match server.setting("appendfsync") {
        Some("always") => {
            machine(Severity::Good, "nothing is lost: each write is on disk first (appendfsync always)", "")
        }
        Some("everysec") => machine(
            Severity::Warning,
            "up to a second of accepted tasks and finished steps is lost (appendfsync everysec)",
            "appendfsync always loses nothing and costs throughput; a replica with min-replicas-to-write helps too",
        ),
        Some(other) => machine(
            Severity::Warning,
            &format!("what the system has not written yet is lost, often half a minute (appendfsync {other})"),
            "CONFIG SET appendfsync everysec, or always",
        ),
        None => machine(
            Severity::Warning,
            "cannot be seen: the server does not show its settings (CONFIG)",
            "look into its provider's documentation for how the append-only file is written",
        ),
    };
    [kept, machine]
}

fn eviction(server: &Server) -> Finding {
    let policy = server.setting("maxmemory-policy").or_else(|| server.info("maxmemory_policy"));
    match policy {
        Some("noeviction") => {
            finding(Severity::Good, Finding::EVICTION, "noeviction: a full memory refuses writes", "")
        }
        // What has no time to live is never evicted by these, and no key of the store has one.
        Some(policy) if policy.starts_with("volatile-") => finding(
            Severity::Warning,
            Finding::EVICTION,
            format!("{policy}: the store's keys have no time to live and stay, but it is one letter from losing them"),
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        ),
        Some(policy) => finding(
            Severity::Fatal,
            Finding::EVICTION,
            format!("{policy}: when its memory is full the server silently throws tasks away"),
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        ),
        None => finding(
            Severity::Warning,
            Finding::EVICTION,
            "cannot be seen: the server does not show its settings (CONFIG)",
            "make sure that it is noeviction",
        ),
    }
}

fn site(server: &Server, kind: &Kind) -> Finding {
    let subject = Finding::SITE;
    let replicas = server.info("connected_slaves").and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
    let asked = server.setting("min-replicas-to-write").and_then(|count| count.parse::<u64>().ok());
    let of = if *kind == Kind::Cluster { " of the node that was looked at" } else { "" };
    match (replicas, asked) {
        (0, _) => finding(
            Severity::Warning,
            subject,
            format!("there is no replica{of}: with its disk all tasks are lost"),
            "add a replica in another place, or copy the append-only file away regularly",
        ),
        (_, Some(asked)) if asked > 0 => finding(
            Severity::Good,
            subject,
            format!("{replicas} replicas{of}; writes are refused when fewer than {asked} follow closely"),
            "",
        ),
        (_, None) => finding(
            Severity::Warning,
            subject,
            format!("{replicas} replicas{of}; whether writes wait for them cannot be seen"),
            "",
        ),
        (_, Some(_)) => finding(
            Severity::Warning,
            subject,
            format!("{replicas} replicas{of}; a failover loses what they have not got yet, however much that is"),
            "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 10 bound it",
        ),
    }
}

fn clocks(ahead: i64) -> Finding {
    if ahead.unsigned_abs() <= u64::try_from(DRIFT.as_millis()).unwrap_or(u64::MAX) {
        return finding(Severity::Good, "clock", "the server's clock and this machine's agree", "");
    }
    let side = if ahead > 0 { "before" } else { "behind" };
    let said = format!(
        "the server's clock is {} ms {side} this machine's; leases and timers go by the server's",
        ahead.unsigned_abs()
    );
    finding(Severity::Warning, "clock", said, "keep both by NTP")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn server(settings: &[(&str, &str)]) -> Server {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Server { info: parse("redis_version:7.0.15\r\nconnected_slaves:0\r\n"), settings: Some(settings) }
    }

    #[test]
    fn each_way_to_write_says_what_it_can_lose() {
        let said = |settings: &[(&str, &str)]| durability(&server(settings)).map(|f| (f.severity, f.said));
        let [process, machine] = said(&[("appendonly", "yes"), ("appendfsync", "everysec")]);
        assert_eq!((process.0, machine.0), (Severity::Good, Severity::Warning));
        assert!(machine.1.contains("up to a second"));
        let [process, machine] = said(&[("appendonly", "yes"), ("appendfsync", "always")]);
        assert_eq!((process.0, machine.0), (Severity::Good, Severity::Good));
        let [process, _] = said(&[("appendonly", "no")]);
        assert!(process.0 == Severity::Warning && process.1.contains("last snapshot"));
    }

    #[test]
    fn eviction_is_fatal_and_what_is_hidden_is_said() {
        assert_eq!(eviction(&server(&[("maxmemory-policy", "allkeys-lru")])).severity, Severity::Fatal);
        assert_eq!(eviction(&server(&[("maxmemory-policy", "noeviction")])).severity, Severity::Good);
        let hidden = Server { settings: None, ..server(&[]) };
        assert!(eviction(&hidden).said.contains("cannot be seen"));
        assert!(durability(&hidden)[1].severity == Severity::Warning);
    }

    #[test]
    fn an_old_server_and_a_wrong_clock_are_told() {
        assert_eq!(version(&server(&[])).severity, Severity::Good);
        let old = Server { info: parse("redis_version:6.2.1"), settings: None };
        assert_eq!(version(&old).severity, Severity::Warning);
        assert_eq!(clocks(-5_000).severity, Severity::Warning);
        assert_eq!(clocks(3).severity, Severity::Good);
    }
}
